/**
 * The addon `tessera_cpu` as Node.js sees it (N-API, no C++ wrapper):
 *   steps(), instructions()          names whose indices are codes
 *   create(plan)                     a program
 *   run(program, inputs, states, nexts, outputs)   a promise; computes on a thread of libuv's pool
 *   profile(program)                 milliseconds of each step so far
 *   about()                          instruction set and compiler
 *   product64(...), tridiagonal64(...)   dense matrices in double precision (kernels/dense64.cc)
 */
#include <node_api.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "exec/pointwise_ops.h"
#include "exec/program.h"
#include "kernels/kernels.h"

namespace {

using namespace tessera::exec;

/** A JavaScript exception, or a refused call of N-API. */
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(napi_env env, napi_status status, const char* what) {
  if (status != napi_ok) {
    const napi_extended_error_info* info = nullptr;
    napi_get_last_error_info(env, &info);
    throw Failure(std::string(what) + ": " +
                  (info != nullptr && info->error_message != nullptr ? info->error_message : "?"));
  }
}

napi_value property(napi_env env, napi_value object, const char* name) {
  napi_value value;
  check(env, napi_get_named_property(env, object, name, &value), name);
  return value;
}

std::uint32_t length(napi_env env, napi_value array) {
  std::uint32_t count = 0;
  check(env, napi_get_array_length(env, array, &count), "array");
  return count;
}

napi_value element(napi_env env, napi_value array, std::uint32_t index) {
  napi_value value;
  check(env, napi_get_element(env, array, index, &value), "element");
  return value;
}

double number(napi_env env, napi_value value) {
  double result = 0;
  check(env, napi_get_value_double(env, value, &result), "number");
  return result;
}

std::string text(napi_env env, napi_value value) {
  std::size_t size = 0;
  check(env, napi_get_value_string_utf8(env, value, nullptr, 0, &size), "string");
  std::string result(size, '\0');
  check(env, napi_get_value_string_utf8(env, value, result.data(), size + 1, &size), "string");
  return result;
}

napi_value string_of(napi_env env, const std::string& value) {
  napi_value result;
  check(env, napi_create_string_utf8(env, value.c_str(), value.size(), &result), "string");
  return result;
}

/** The memory of a typed array. */
struct View {
  char* data = nullptr;
  std::size_t elements = 0;
  std::size_t width = 1;
};

View view(napi_env env, napi_value value) {
  napi_typedarray_type type;
  void* data = nullptr;
  View found;
  check(env,
        napi_get_typedarray_info(env, value, &type, &found.elements, &data, nullptr, nullptr),
        "typed array");
  found.data = static_cast<char*>(data);
  found.width = type == napi_float64_array  ? 8
                : type == napi_float32_array || type == napi_int32_array || type == napi_uint32_array
                    ? 4
                    : 1;
  return found;
}

std::vector<char*> pointers(napi_env env, napi_value array) {
  std::vector<char*> result(length(env, array));
  for (std::uint32_t i = 0; i < result.size(); i++) {
    result[i] = view(env, element(env, array, i)).data;
  }
  return result;
}

/** Runs a body and turns what it throws into a JavaScript exception. */
template <typename F>
napi_value guarded(napi_env env, F&& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    napi_throw_error(env, "TESSERA_MEMORY", "out of memory");
  } catch (const std::exception& error) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (!pending) {
      napi_throw_error(env, nullptr, error.what());
    }
  }
  return nullptr;
}

std::vector<napi_value> arguments(napi_env env, napi_callback_info info, std::size_t count) {
  std::vector<napi_value> values(count);
  std::size_t given = count;
  check(env, napi_get_cb_info(env, info, &given, values.data(), nullptr, nullptr), "arguments");
  if (given < count) {
    throw Failure("too few arguments");
  }
  return values;
}

napi_value names(napi_env env, const std::vector<std::string>& all) {
  napi_value array;
  check(env, napi_create_array_with_length(env, all.size(), &array), "array");
  for (std::uint32_t i = 0; i < all.size(); i++) {
    check(env, napi_set_element(env, array, i, string_of(env, all[i])), "element");
  }
  return array;
}

napi_value steps(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    std::vector<std::string> all;
    for (const StepKind& kind : step_kinds()) {
      all.emplace_back(kind.name);
    }
    return names(env, all);
  });
}

napi_value instructions(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    std::vector<std::string> all;
    for (const PointwiseOp& op : pointwise_ops()) {
      all.emplace_back(op.name);
    }
    return names(env, all);
  });
}

/**
 * plan: { arena: bytes, threads, profile: boolean, tensors: Float64Array (place, slot, offset)...,
 * constants: typed arrays, ops: Int32Array (code, inputs, outputs, integers, numbers, then those three
 * lists)..., numbers: Float64Array, labels: string[], bodies: plans of loops' bodies in order }
 */
struct Compiled {
  std::unique_ptr<Program> program;
  int threads = 1;
  bool busy = false;
};

std::unique_ptr<Program> program_of(napi_env env, napi_value plan) {
  const View table = view(env, property(env, plan, "tensors"));
  const auto* rows = reinterpret_cast<const double*>(table.data);
  std::vector<TensorSpec> tensors(table.elements / 3);
  for (std::size_t i = 0; i < tensors.size(); i++) {
    tensors[i] = {static_cast<Place>(static_cast<std::int32_t>(rows[3 * i])),
                  static_cast<std::int32_t>(rows[3 * i + 1]),
                  static_cast<std::int64_t>(rows[3 * i + 2])};
  }
  const napi_value given = property(env, plan, "constants");
  std::vector<std::vector<char>> constants(length(env, given));
  for (std::uint32_t i = 0; i < constants.size(); i++) {
    const View values = view(env, element(env, given, i));
    constants[i].assign(values.data, values.data + values.elements * values.width);
  }
  auto program = std::make_unique<Program>(
      std::move(tensors), std::move(constants),
      static_cast<std::size_t>(number(env, property(env, plan, "arena"))));
  bool profiled = false;
  check(env, napi_get_value_bool(env, property(env, plan, "profile"), &profiled), "profile");
  program->profile(profiled);
  const View ops = view(env, property(env, plan, "ops"));
  const auto* words = reinterpret_cast<const std::int32_t*>(ops.data);
  const auto* values =
      reinterpret_cast<const double*>(view(env, property(env, plan, "numbers")).data);
  const napi_value labels = property(env, plan, "labels");
  const napi_value bodies = property(env, plan, "bodies");
  const std::vector<StepKind>& kinds = step_kinds();
  std::uint32_t count = 0, loops = 0;
  for (std::size_t at = 0; at < ops.elements; count++) {
    const std::int32_t code = words[at], in = words[at + 1], out = words[at + 2],
                       ints = words[at + 3], floats = words[at + 4];
    const std::int32_t* list = words + at + 5;
    Spec spec;
    spec.inputs.assign(list, list + in);
    spec.outputs.assign(list + in, list + in + out);
    spec.ints.assign(list + in + out, list + in + out + ints);
    spec.floats.assign(values, values + floats);
    if (kinds.at(code).loops) {
      spec.body = program_of(env, element(env, bodies, loops++));
    }
    values += floats;
    at += 5 + in + out + ints;
    program->add(code, std::move(spec), text(env, element(env, labels, count)));
  }
  return program;
}

napi_value create(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const napi_value plan = arguments(env, info, 1)[0];
    auto compiled = std::make_unique<Compiled>();
    compiled->threads = static_cast<int>(number(env, property(env, plan, "threads")));
    compiled->program = program_of(env, plan);
    napi_value external;
    check(env,
          napi_create_external(
              env, compiled.get(),
              [](napi_env, void* data, void*) { delete static_cast<Compiled*>(data); }, nullptr,
              &external),
          "program");
    compiled.release();
    return external;
  });
}

/** A call under way: holds references so that the arrays stay where they are. */
struct Call {
  napi_async_work work = nullptr;
  napi_deferred deferred = nullptr;
  napi_ref held = nullptr;
  Compiled* compiled = nullptr;
  Arrays arrays;
  std::string error;
};

void execute(napi_env, void* data) {
  Call& call = *static_cast<Call*>(data);
  try {
    call.compiled->program->run(call.arrays, call.compiled->threads);
  } catch (const std::exception& error) {
    call.error = error.what();
  }
}

void complete(napi_env env, napi_status, void* data) {
  const std::unique_ptr<Call> call(static_cast<Call*>(data));
  call->compiled->busy = false;
  napi_value result;
  napi_get_undefined(env, &result);
  if (call->error.empty()) {
    napi_resolve_deferred(env, call->deferred, result);
  } else {
    napi_value message;
    napi_create_string_utf8(env, call->error.c_str(), call->error.size(), &message);
    napi_create_error(env, nullptr, message, &result);
    napi_reject_deferred(env, call->deferred, result);
  }
  napi_delete_reference(env, call->held);
  napi_delete_async_work(env, call->work);
}

napi_value run(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const auto given = arguments(env, info, 5);
    void* data = nullptr;
    check(env, napi_get_value_external(env, given[0], &data), "program");
    auto call = std::make_unique<Call>();
    call->compiled = static_cast<Compiled*>(data);
    if (call->compiled->busy) {
      throw Failure("a program runs one call at a time");
    }
    call->arrays = {pointers(env, given[1]), pointers(env, given[2]), pointers(env, given[3]),
                    pointers(env, given[4])};
    napi_value held;
    check(env, napi_create_array_with_length(env, given.size(), &held), "array");
    for (std::uint32_t i = 0; i < given.size(); i++) {
      check(env, napi_set_element(env, held, i, given[i]), "element");
    }
    check(env, napi_create_reference(env, held, 1, &call->held), "reference");
    napi_value promise;
    check(env, napi_create_promise(env, &call->deferred, &promise), "promise");
    check(env,
          napi_create_async_work(env, nullptr, string_of(env, "tessera"), execute, complete,
                                 call.get(), &call->work),
          "work");
    check(env, napi_queue_async_work(env, call->work), "work");
    call->compiled->busy = true;
    call.release();
    return promise;
  });
}

napi_value profile(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    void* data = nullptr;
    check(env, napi_get_value_external(env, arguments(env, info, 1)[0], &data), "program");
    const Program& program = *static_cast<Compiled*>(data)->program;
    napi_value array;
    const std::vector<double> seconds = program.seconds();
    check(env, napi_create_array_with_length(env, seconds.size(), &array), "array");
    for (std::uint32_t i = 0; i < seconds.size(); i++) {
      napi_value value;
      check(env, napi_create_double(env, 1000 * seconds[i], &value), "number");
      check(env, napi_set_element(env, array, i, value), "element");
    }
    return array;
  });
}

napi_value about(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
#if defined(__AVX512F__)
    const char* set = "AVX-512";
#elif defined(__AVX2__)
    const char* set = "AVX2";
#elif defined(__ARM_NEON)
    const char* set = "NEON";
#else
    const char* set = "baseline";
#endif
    return string_of(env, set);
  });
}

View doubles(napi_env env, napi_value value) {
  const View found = view(env, value);
  if (found.width != 8) {
    throw Failure("expected a Float64Array");
  }
  return found;
}

/** product64(c, a, b, [ldc, lda, ldb, r0, r1, c0, c1, k0, k1, sign, lower, from]) */
napi_value product64(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto given = arguments(env, info, 4);
    const View c = doubles(env, given[0]), a = doubles(env, given[1]), b = doubles(env, given[2]);
    const View options = doubles(env, given[3]);
    if (options.elements != 12) {
      throw Failure("expected 12 options");
    }
    std::int64_t o[12];
    for (int i = 0; i < 12; i++) {
      o[i] = static_cast<std::int64_t>(reinterpret_cast<const double*>(options.data)[i]);
    }
    const auto fits = [](const View& matrix, std::int64_t ld, std::int64_t rows, std::int64_t columns) {
      return rows <= 0 || columns <= 0 ||
             static_cast<std::uint64_t>((rows - 1) * ld + columns) <= matrix.elements;
    };
    if (std::any_of(o, o + 9, [](std::int64_t x) { return x < 0; }) || !fits(c, o[0], o[4], o[6]) ||
        !fits(a, o[1], o[4], o[8]) || !fits(b, o[2], o[6], o[8])) {
      throw Failure("a product does not fit its matrices");
    }
    const tessera::Product64 shape{o[0], o[1], o[2], {o[3], o[4]}, {o[5], o[6]}, {o[7], o[8]},
                                   static_cast<double>(o[9]), o[10] != 0, o[11] != 0};
    tessera::add_product64(shape, reinterpret_cast<double*>(c.data), reinterpret_cast<double*>(a.data),
                           reinterpret_cast<double*>(b.data));
    return nullptr;
  });
}

/** tridiagonal64(a, d, e) */
napi_value tridiagonal64(napi_env env, napi_callback_info info) {
  return guarded(env, [&]() -> napi_value {
    const auto given = arguments(env, info, 3);
    const View a = doubles(env, given[0]), d = doubles(env, given[1]), e = doubles(env, given[2]);
    if (a.elements != d.elements * d.elements || e.elements != d.elements) {
      throw Failure("expected [n, n], [n] and [n]");
    }
    tessera::tridiagonalise64(reinterpret_cast<double*>(a.data), static_cast<std::int64_t>(d.elements),
                              reinterpret_cast<double*>(d.data), reinterpret_cast<double*>(e.data));
    return nullptr;
  });
}

napi_value init(napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback function;
  } all[] = {{"steps", steps},     {"instructions", instructions}, {"create", create},
             {"run", run},         {"profile", profile},           {"about", about},
             {"product64", product64}, {"tridiagonal64", tridiagonal64}};
  for (const auto& each : all) {
    napi_value function;
    napi_create_function(env, each.name, NAPI_AUTO_LENGTH, each.function, nullptr, &function);
    napi_set_named_property(env, exports, each.name, function);
  }
  return exports;
}

}  // namespace

NAPI_MODULE(tessera_cpu, init)
