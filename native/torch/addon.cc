// The Node-API side: engines, buffers, programs and data-parallel groups as externals, calls as promises.
// All device work runs on one thread of its own, in order: libraries keep handles by thread, and a CUDA
// graph must be captured by the thread that warmed it up.
#include <node_api.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <thread>

#include <ATen/Parallel.h>

#include "kernel_cache.h"
#include "program.h"

using namespace tessera;

namespace {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(napi_status status) {
  if (status != napi_ok) throw Failure("a Node-API call failed (" + std::to_string(status) + ")");
}

// --- reading JavaScript values ---

napi_value get(napi_env env, napi_value object, const char* name) {
  napi_value v;
  check(napi_get_named_property(env, object, name, &v));
  return v;
}

uint32_t lengthOf(napi_env env, napi_value array) {
  uint32_t n;
  check(napi_get_array_length(env, array, &n));
  return n;
}

napi_value element(napi_env env, napi_value array, uint32_t k) {
  napi_value v;
  check(napi_get_element(env, array, k, &v));
  return v;
}

double number(napi_env env, napi_value v) {
  double d;
  check(napi_get_value_double(env, v, &d));
  return d;
}

bool truth(napi_env env, napi_value v) {
  bool b;
  check(napi_get_value_bool(env, v, &b));
  return b;
}

std::string text(napi_env env, napi_value v) {
  size_t n;
  check(napi_get_value_string_utf8(env, v, nullptr, 0, &n));
  std::string s(n, '\0');
  check(napi_get_value_string_utf8(env, v, s.data(), n + 1, &n));
  return s;
}

template <typename T>
std::vector<T> numbers(napi_env env, napi_value array) {
  std::vector<T> out(lengthOf(env, array));
  for (uint32_t k = 0; k < out.size(); k++) out[k] = static_cast<T>(number(env, element(env, array, k)));
  return out;
}

at::ScalarType typeOf(const std::string& name) {
  if (name == "f32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  if (name == "i32") return at::kInt;
  if (name == "bool") return at::kBool;
  if (name == "u8") return at::kByte;
  throw Failure("unknown type " + name);
}

Spec specOf(napi_env env, napi_value v) {
  return {numbers<int64_t>(env, get(env, v, "shape")), typeOf(text(env, get(env, v, "type")))};
}

struct Bytes {
  void* data;
  size_t size;
};

Bytes bytesOf(napi_env env, napi_value typed) {
  napi_typedarray_type type;
  size_t length, offset;
  void* data;
  napi_value buffer;
  check(napi_get_typedarray_info(env, typed, &type, &length, &data, &buffer, &offset));
  const size_t width = type == napi_float32_array || type == napi_int32_array ? 4 : 1;
  return {data, length * width};
}

// --- externals ---

// Things of the device are given up by the thread that uses it, never beside a call or a capture; and not at all
// when the process ends, where the library may be gone before them.
void onWorker(std::function<void()> job);
bool ending = false;

template <typename T>
napi_value wrap(napi_env env, std::shared_ptr<T> value) {
  napi_value v;
  auto* held = new std::shared_ptr<T>(std::move(value));
  auto giveUp = [](napi_env, void* p, void*) {
    if (!ending) onWorker([p] { delete static_cast<std::shared_ptr<T>*>(p); });
  };
  check(napi_create_external(env, held, giveUp, nullptr, &v));
  return v;
}

template <typename T>
std::shared_ptr<T> unwrap(napi_env env, napi_value v) {
  void* p;
  check(napi_get_value_external(env, v, &p));
  return *static_cast<std::shared_ptr<T>*>(p);
}

// --- the worker thread ---

class Worker {
 public:
  Worker() : thread_([this] { loop(); }) { thread_.detach(); }

  void post(std::function<void()> job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    ready_.notify_one();
  }

  // Run a job and wait for it; what it throws is thrown here.
  void await(const std::function<void()>& job) {
    std::exception_ptr error;
    std::mutex mutex;
    std::condition_variable done;
    bool finished = false;
    post([&] {
      try {
        job();
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(mutex);
      finished = true;
      done.notify_one();
    });
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return finished; });
    if (error) std::rethrow_exception(error);
  }

 private:
  void loop() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        ready_.wait(lock, [&] { return !jobs_.empty(); });
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> jobs_;
  std::thread thread_;
};

// Never destroyed: the process ends with it.
Worker& worker() {
  static Worker* one = new Worker();
  return *one;
}

void onWorker(std::function<void()> job) { worker().post(std::move(job)); }

// c10 errors carry a stack trace; people need the first line.
std::string messageOf(const std::exception& error) {
  if (const auto* c10 = dynamic_cast<const c10::Error*>(&error)) return c10->what_without_backtrace();
  return error.what();
}

template <typename F>
napi_value guarded(napi_env env, F body) {
  try {
    return body();
  } catch (const std::exception& error) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (!pending) napi_throw_error(env, nullptr, messageOf(error).c_str());
    return nullptr;
  }
}

std::vector<napi_value> arguments(napi_env env, napi_callback_info info, size_t count) {
  std::vector<napi_value> args(count);
  size_t n = count;
  check(napi_get_cb_info(env, info, &n, args.data(), nullptr, nullptr));
  return args;
}

napi_value string(napi_env env, const std::string& s) {
  napi_value v;
  check(napi_create_string_utf8(env, s.data(), s.size(), &v));
  return v;
}

napi_value real(napi_env env, double d) {
  napi_value v;
  check(napi_create_double(env, d, &v));
  return v;
}

// open({ cuda, index, tf32, deterministic, threads }) -> { engine, version, name, memory }
napi_value js_open(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    auto options = arguments(env, info, 1)[0];
    auto engine = std::make_shared<Engine>();
    if (truth(env, get(env, options, "cuda"))) {
      engine->device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(number(env, get(env, options, "index"))));
    }
    engine->tf32 = truth(env, get(env, options, "tf32"));
    engine->deterministic = truth(env, get(env, options, "deterministic"));
    const int threads = static_cast<int>(number(env, get(env, options, "threads")));
    EngineInfo opened;
    worker().await([&] {
      if (threads > 0) at::set_num_threads(threads);
      opened = openEngine(*engine);
    });
    napi_value result;
    check(napi_create_object(env, &result));
    check(napi_set_named_property(env, result, "engine", wrap(env, engine)));
    check(napi_set_named_property(env, result, "version", string(env, opened.version)));
    check(napi_set_named_property(env, result, "name", string(env, opened.name)));
    check(napi_set_named_property(env, result, "memory", real(env, static_cast<double>(opened.memory))));
    return result;
  });
}

// devices() -> number of GPUs that can be used
napi_value js_devices(napi_env env, napi_callback_info) {
  return guarded(env, [&] { return real(env, deviceCount()); });
}

// buffer(engine, spec, values) -> buffer
napi_value js_buffer(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    auto args = arguments(env, info, 3);
    auto engine = unwrap<Engine>(env, args[0]);
    const Spec spec = specOf(env, args[1]);
    const Bytes bytes = bytesOf(env, args[2]);
    auto made = std::make_shared<Buffer>();
    worker().await([&] {
      at::InferenceMode guard;
      made->tensor = at::empty(spec.shape, at::TensorOptions().device(engine->device).dtype(spec.type));
      copyToDevice(made->tensor, bytes.data, bytes.size);
    });
    return wrap(env, made);
  });
}

// write(buffer, values)
napi_value js_write(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    auto args = arguments(env, info, 2);
    auto target = unwrap<Buffer>(env, args[0]);
    const Bytes bytes = bytesOf(env, args[1]);
    worker().await([&] {
      at::InferenceMode guard;
      copyToDevice(target->tensor, bytes.data, bytes.size);
      target->version += 1;
    });
    return nullptr;
  });
}

// read(buffer, into)
napi_value js_read(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    auto args = arguments(env, info, 2);
    auto source = unwrap<Buffer>(env, args[0]);
    const Bytes bytes = bytesOf(env, args[1]);
    worker().await([&] {
      at::InferenceMode guard;
      copyToHost(source->tensor, bytes.data, bytes.size);
    });
    return nullptr;
  });
}

Plan planOf(napi_env env, napi_value v);

Instruction instructionOf(napi_env env, napi_value v) {
  Instruction i;
  i.op = text(env, get(env, v, "op"));
  i.in = numbers<int32_t>(env, get(env, v, "inputs"));
  i.out = numbers<int32_t>(env, get(env, v, "outputs"));
  napi_value specs = get(env, v, "specs");
  for (uint32_t k = 0; k < lengthOf(env, specs); k++) i.specs.push_back(specOf(env, element(env, specs, k)));
  i.ints = numbers<int64_t>(env, get(env, v, "ints"));
  i.floats = numbers<double>(env, get(env, v, "floats"));
  i.text = text(env, get(env, v, "text"));
  i.free = numbers<int32_t>(env, get(env, v, "free"));
  i.where = text(env, get(env, v, "where"));
  i.fixed = truth(env, get(env, v, "fixed"));
  bool loop = false;
  check(napi_has_named_property(env, v, "body", &loop));
  if (loop) i.body = std::make_shared<Plan>(planOf(env, get(env, v, "body")));
  return i;
}

Plan planOf(napi_env env, napi_value given) {
  Plan plan;
  plan.name = text(env, get(env, given, "name"));
  plan.slots = static_cast<int32_t>(number(env, get(env, given, "slots")));
  napi_value list = get(env, given, "instructions");
  for (uint32_t k = 0; k < lengthOf(env, list); k++) plan.instructions.push_back(instructionOf(env, element(env, list, k)));
  list = get(env, given, "inputs");
  for (uint32_t k = 0; k < lengthOf(env, list); k++) {
    napi_value v = element(env, list, k);
    plan.inputs.push_back({static_cast<int32_t>(number(env, get(env, v, "slot"))), specOf(env, v)});
  }
  list = get(env, given, "constants");
  for (uint32_t k = 0; k < lengthOf(env, list); k++) {
    napi_value v = element(env, list, k);
    const Spec spec = specOf(env, v);
    at::Tensor t = at::empty(spec.shape, at::TensorOptions().dtype(spec.type));
    const Bytes bytes = bytesOf(env, get(env, v, "data"));
    copyToDevice(t, bytes.data, bytes.size);
    plan.constants.emplace_back(static_cast<int32_t>(number(env, get(env, v, "slot"))), t);
  }
  list = get(env, given, "states");
  for (uint32_t k = 0; k < lengthOf(env, list); k++) {
    napi_value v = element(env, list, k);
    plan.states.push_back({static_cast<int32_t>(number(env, get(env, v, "slot"))),
                           static_cast<int32_t>(number(env, get(env, v, "next")))});
  }
  list = get(env, given, "outputs");
  for (uint32_t k = 0; k < lengthOf(env, list); k++) {
    napi_value v = element(env, list, k);
    plan.outputs.push_back(static_cast<int32_t>(number(env, get(env, v, "slot"))));
    plan.outputSpecs.push_back(specOf(env, v));
  }
  return plan;
}

// load(engine, plan) -> program
napi_value js_load(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    auto args = arguments(env, info, 2);
    auto engine = unwrap<Engine>(env, args[0]);
    Plan plan = planOf(env, args[1]);
    plan.graph = truth(env, get(env, args[1], "graph"));
    std::shared_ptr<Program> program;
    worker().await([&] { program = std::make_shared<Program>(std::move(plan), engine); });
    return wrap(env, program);
  });
}

struct Call {
  std::shared_ptr<Program> program;
  std::vector<HostInput> inputs;
  std::vector<std::shared_ptr<Buffer>> states;
  std::vector<HostOutput> outputs;
  std::string error;
  std::vector<napi_ref> kept;  // the inputs' arrays, till the call is over
  napi_deferred deferred = nullptr;
  napi_threadsafe_function done = nullptr;
};

void finish(napi_env env, napi_value, void*, void* data) {
  std::unique_ptr<Call> call(static_cast<Call*>(data));
  for (napi_ref ref : call->kept) napi_delete_reference(env, ref);
  napi_release_threadsafe_function(call->done, napi_tsfn_release);
  if (!call->error.empty()) {
    napi_value message, error;
    napi_create_string_utf8(env, call->error.data(), call->error.size(), &message);
    napi_create_error(env, nullptr, message, &error);
    napi_reject_deferred(env, call->deferred, error);
    return;
  }
  napi_value list;
  napi_create_array_with_length(env, call->outputs.size(), &list);
  for (uint32_t k = 0; k < call->outputs.size(); k++) {
    napi_value buffer;
    void* data_ = nullptr;
    const auto& bytes = call->outputs[k].bytes;
    napi_create_arraybuffer(env, bytes.size(), &data_, &buffer);
    if (!bytes.empty()) std::copy(bytes.begin(), bytes.end(), static_cast<char*>(data_));
    napi_set_element(env, list, k, buffer);
  }
  napi_resolve_deferred(env, call->deferred, list);
}

// run(program, [{ data, type }], [buffer]) -> promise of [ArrayBuffer]
napi_value js_run(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    auto args = arguments(env, info, 3);
    auto call = std::make_unique<Call>();
    call->program = unwrap<Program>(env, args[0]);
    for (uint32_t k = 0; k < lengthOf(env, args[1]); k++) {
      napi_value v = element(env, args[1], k), data = get(env, v, "data");
      const Bytes bytes = bytesOf(env, data);
      call->inputs.push_back({bytes.data, bytes.size, typeOf(text(env, get(env, v, "type")))});
      napi_ref ref;
      check(napi_create_reference(env, data, 1, &ref));
      call->kept.push_back(ref);
    }
    for (uint32_t k = 0; k < lengthOf(env, args[2]); k++) call->states.push_back(unwrap<Buffer>(env, element(env, args[2], k)));
    napi_value promise;
    check(napi_create_promise(env, &call->deferred, &promise));
    check(napi_create_threadsafe_function(env, nullptr, nullptr, string(env, "tessera-torch"), 0, 1, nullptr, nullptr, nullptr,
                                          finish, &call->done));
    Call* raw = call.release();
    worker().post([raw] {
      try {
        raw->outputs = raw->program->run(raw->inputs, raw->states);
      } catch (const std::exception& error) {
        raw->error = messageOf(error);
        if (raw->error.empty()) raw->error = "unknown failure";
      }
      napi_call_threadsafe_function(raw->done, raw, napi_tsfn_blocking);
    });
    return promise;
  });
}

// memory(engine, reset) -> [bytes in use, most bytes in use]
napi_value js_memory(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    auto args = arguments(env, info, 2);
    auto engine = unwrap<Engine>(env, args[0]);
    const bool reset = truth(env, args[1]);
    std::pair<int64_t, int64_t> use;
    worker().await([&] { use = memoryUse(*engine, reset); });
    napi_value list;
    check(napi_create_array_with_length(env, 2, &list));
    check(napi_set_element(env, list, 0, real(env, static_cast<double>(use.first))));
    check(napi_set_element(env, list, 1, real(env, static_cast<double>(use.second))));
    return list;
  });
}

// join({ backend, rank, world, host, port, external, seconds, note, index }) -> the note of rank 0
napi_value js_join(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    auto o = arguments(env, info, 1)[0];
    auto integer = [&](const char* name) { return static_cast<int>(number(env, get(env, o, name))); };
    GroupOptions options;
    options.backend = text(env, get(env, o, "backend"));
    options.rank = integer("rank");
    options.world = integer("world");
    options.host = text(env, get(env, o, "host"));
    options.port = integer("port");
    options.external = truth(env, get(env, o, "external"));
    options.seconds = integer("seconds");
    options.note = text(env, get(env, o, "note"));
    if (options.backend == "nccl") options.device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(integer("index")));
    std::string note;
    worker().await([&] { note = joinGroup(options); });
    return string(env, note.c_str());
  });
}

napi_value js_leave(napi_env env, napi_callback_info) {
  return guarded(env, [&]() -> napi_value {
    worker().await([] { leaveGroup(); });
    return nullptr;
  });
}

// abandon(seconds, code): end the process by then, even within a collective
napi_value js_abandon(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    auto args = arguments(env, info, 2);
    abandonProcess(static_cast<int>(number(env, args[0])), static_cast<int>(number(env, args[1])));
    return nullptr;
  });
}

// launchFault(gridX, gridY, block, sharedBytes) -> what is wrong with these sizes, or ""
napi_value js_launchFault(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    auto args = arguments(env, info, 4);
    auto integer = [&](size_t k) { return static_cast<int64_t>(number(env, args[k])); };
    return string(env, launchFault(integer(0), integer(1), integer(2), integer(3)));
  });
}

// kernels() -> names of all kernels
napi_value js_names(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    napi_value list;
    check(napi_create_array(env, &list));
    uint32_t k = 0;
    for (const auto& entry : kernels()) check(napi_set_element(env, list, k++, string(env, entry.first)));
    return list;
  });
}

napi_value init(napi_env env, napi_value exports) {
  napi_add_env_cleanup_hook(env, [](void*) { ending = true; }, nullptr);
  const std::pair<const char*, napi_callback> functions[] = {
      {"open", js_open}, {"devices", js_devices}, {"buffer", js_buffer}, {"write", js_write}, {"read", js_read}, {"load", js_load},
      {"run", js_run},   {"memory", js_memory},   {"join", js_join},     {"leave", js_leave}, {"abandon", js_abandon}, {"kernels", js_names},
      {"launchFault", js_launchFault},
  };
  for (const auto& [name, function] : functions) {
    napi_value v;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &v);
    napi_set_named_property(env, exports, name, v);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(tessera_torch, init)
