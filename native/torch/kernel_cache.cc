#include "kernel_cache.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>

#ifdef TESSERA_CUDA
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#endif

namespace tessera {

const char* const kPrelude = R"(
typedef unsigned short bf16;
#define FORCE __device__ __forceinline__
FORCE void put(float& to, float x) { to = x; }
FORCE void put(bf16& to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to) : "f"(x)); }
FORCE float get(float x) { return x; }
FORCE float get(bf16 x) { return __uint_as_float(((unsigned)x) << 16); }
#define INFINITY_ __int_as_float(0x7f800000)
// Let the kernels behind begin (those that are started with overlap), and wait for the end of those before. What these
// have written must be read by ordinary loads: no __restrict__, no __ldg.
FORCE void successors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
FORCE void predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Sums of two numbers over a block of THREADS, for every thread. All threads have been here when it returns.
template <int THREADS> FORCE void total(float& a, float& b, float* room) {
  #pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    a += __shfl_xor_sync(0xffffffffu, a, o);
    b += __shfl_xor_sync(0xffffffffu, b, o);
  }
  if (THREADS > 32) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    __syncthreads();
    if (lane == 0) {
      room[warp] = a;
      room[32 + warp] = b;
    }
    __syncthreads();
    a = b = 0.0f;
    #pragma unroll
    for (int k = 0; k < THREADS / 32; k++) {
      a += room[k];
      b += room[32 + k];
    }
  }
}
)";

std::string launchFault(int64_t gridX, int64_t gridY, int64_t block, int64_t sharedBytes) {
  auto outside = [](int64_t value, int64_t most) { return value < 1 || value > most; };
  if (outside(gridX, (int64_t{1} << 31) - 1)) return "its grid is " + std::to_string(gridX) + " blocks wide (1 to 2147483647)";
  if (outside(gridY, 65535)) return "its grid is " + std::to_string(gridY) + " blocks high (1 to 65535)";
  if (outside(block, 1024)) return "its blocks have " + std::to_string(block) + " threads (1 to 1024)";
  // What a block of Hopper may have; smaller GPUs refuse by themselves.
  if (sharedBytes < 0 || sharedBytes > 227 * 1024) return "its blocks want " + std::to_string(sharedBytes) + " bytes of shared memory (at most 232448)";
  return "";
}

#ifdef TESSERA_CUDA

namespace {

template <typename F>
F symbol(void* library, const char* name) {
  void* found = dlsym(library, name);
  TORCH_CHECK(found, "the library lacks ", name);
  return reinterpret_cast<F>(found);
}

void* open(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (void* found = dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return found;
  }
  TORCH_CHECK(false, "none of the libraries ", *names.begin(), ", ... could be opened: ", dlerror());
}

// CUlaunchConfig and CUlaunchAttribute, whose layout cuda.h fixes.
struct LaunchAttribute {
  int id;
  char pad[4];
  union {
    char room[64];
    int value;
  };
};
struct LaunchConfig {
  unsigned gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes;
  void* stream;
  LaunchAttribute* attributes;
  unsigned count;
};

// The few calls of NVRTC and of the driver that are needed, with their stable C interfaces.
struct Api {
  int (*createProgram)(void**, const char*, const char*, int, const char* const*, const char* const*);
  int (*compileProgram)(void*, int, const char* const*);
  int (*getLogSize)(void*, size_t*);
  int (*getLog)(void*, char*);
  int (*getCubinSize)(void*, size_t*);
  int (*getCubin)(void*, char*);
  int (*destroyProgram)(void**);
  int (*moduleLoad)(void**, const void*);
  int (*getFunction)(void**, void*, const char*);
  int (*setAttribute)(void*, int, int);
  int (*launchKernel)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  int (*launchKernelEx)(const LaunchConfig*, void*, void**, void**);  // absent from old drivers

  Api() {
    void* nvrtc = open({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"});
    void* driver = open({"libcuda.so.1", "libcuda.so"});
    createProgram = symbol<decltype(createProgram)>(nvrtc, "nvrtcCreateProgram");
    compileProgram = symbol<decltype(compileProgram)>(nvrtc, "nvrtcCompileProgram");
    getLogSize = symbol<decltype(getLogSize)>(nvrtc, "nvrtcGetProgramLogSize");
    getLog = symbol<decltype(getLog)>(nvrtc, "nvrtcGetProgramLog");
    getCubinSize = symbol<decltype(getCubinSize)>(nvrtc, "nvrtcGetCUBINSize");
    getCubin = symbol<decltype(getCubin)>(nvrtc, "nvrtcGetCUBIN");
    destroyProgram = symbol<decltype(destroyProgram)>(nvrtc, "nvrtcDestroyProgram");
    moduleLoad = symbol<decltype(moduleLoad)>(driver, "cuModuleLoadData");
    getFunction = symbol<decltype(getFunction)>(driver, "cuModuleGetFunction");
    setAttribute = symbol<decltype(setAttribute)>(driver, "cuFuncSetAttribute");
    launchKernel = symbol<decltype(launchKernel)>(driver, "cuLaunchKernel");
    launchKernelEx = reinterpret_cast<decltype(launchKernelEx)>(dlsym(driver, "cuLaunchKernelEx"));
  }
};

const Api& api() {
  static const Api one;
  return one;
}

}  // namespace

struct CompiledKernel {
  void* function = nullptr;
  std::string name;
  int64_t allowed = 48 * 1024;  // bytes of dynamic shared memory so far
};

const CompiledKernel* compiled(const std::string& source, const std::string& name, const std::string& defines, int device) {
  static std::map<std::string, std::unique_ptr<CompiledKernel>> known;
  const std::string text = defines + source;
  auto& found = known[std::to_string(device) + " " + name + "\n" + text];
  if (found) return found.get();
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  const std::string arch = "--gpu-architecture=sm_" + std::to_string(major) + std::to_string(minor);
  void* program = nullptr;
  TORCH_CHECK(api().createProgram(&program, text.c_str(), "tessera.cu", 0, nullptr, nullptr) == 0, "NVRTC does not start");
  const char* options[] = {arch.c_str(), "--std=c++17", "--fmad=true", "--use_fast_math"};
  const bool fast = source.rfind("// fast", 0) == 0;
  const int result = api().compileProgram(program, fast ? 4 : 3, options);
  if (result != 0) {
    size_t size = 0;
    api().getLogSize(program, &size);
    std::string log(size, '\0');
    api().getLog(program, log.data());
    TORCH_CHECK(false, "a kernel does not compile: ", log, "\n", text);
  }
  size_t size = 0;
  api().getCubinSize(program, &size);
  std::vector<char> cubin(size);
  api().getCubin(program, cubin.data());
  api().destroyProgram(&program);
  void* module = nullptr;
  TORCH_CHECK(api().moduleLoad(&module, cubin.data()) == 0, "a compiled kernel does not load");
  found = std::make_unique<CompiledKernel>();
  TORCH_CHECK(api().getFunction(&found->function, module, name.c_str()) == 0, "a compiled module lacks ", name);
  found->name = name;
  return found.get();
}

static bool& overlapping() {
  static bool on = [] {
    const char* given = std::getenv("TESSERA_OVERLAP");
    int device = 0, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return major >= 9 && api().launchKernelEx && given && std::string(given) == "1";
  }();
  return on;
}

bool stopOverlapping() {
  const bool before = overlapping();
  overlapping() = false;
  return before;
}

void launch(const CompiledKernel* kernel, int64_t gridX, int64_t gridY, int64_t block, std::vector<void*> arguments,
            int64_t sharedBytes, bool overlap) {
  auto described = [&] {
    return "the kernel \"" + kernel->name + "\" (" + std::to_string(gridX) + " x " + std::to_string(gridY) + " blocks of " +
           std::to_string(block) + " threads, " + std::to_string(sharedBytes) + " bytes of shared memory) could not be started";
  };
  const std::string fault = launchFault(gridX, gridY, block, sharedBytes);
  TORCH_CHECK(fault.empty(), described(), ": ", fault);
  if (sharedBytes > kernel->allowed) {
    const int result = api().setAttribute(kernel->function, 8 /* MAX_DYNAMIC_SHARED_SIZE_BYTES */, static_cast<int>(sharedBytes));
    TORCH_CHECK(result == 0, described(), ": the GPU does not have so much shared memory (CUDA driver error ", result, ")");
    const_cast<CompiledKernel*>(kernel)->allowed = sharedBytes;
  }
  void* stream = c10::cuda::getCurrentCUDAStream().stream();
  if (overlap && overlapping()) {
    LaunchAttribute attribute{};
    attribute.id = 6;  // PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value = 1;
    const LaunchConfig config{static_cast<unsigned>(gridX), static_cast<unsigned>(gridY), 1, static_cast<unsigned>(block), 1, 1,
                              static_cast<unsigned>(sharedBytes), stream, &attribute, 1};
    const int started = api().launchKernelEx(&config, kernel->function, arguments.data(), nullptr);
    if (started == 0) return;
    std::fprintf(stderr, "warning: kernels cannot overlap here (CUDA driver error %d), they follow each other\n", started);
    stopOverlapping();
  }
  const int result = api().launchKernel(kernel->function, static_cast<unsigned>(gridX), static_cast<unsigned>(gridY), 1,
                                        static_cast<unsigned>(block), 1, 1, static_cast<unsigned>(sharedBytes), stream,
                                        arguments.data(), nullptr);
  TORCH_CHECK(result == 0, described(), " (CUDA driver error ", result, ")");
}

#elif defined(TESSERA_EMULATE)

// For tests of the generated code where there is no GPU: the C++ compiler in place of NVRTC, loops in
// place of threads. Only for kernels without shared memory.
struct CompiledKernel {
  void (*run)(unsigned, unsigned, unsigned, void**) = nullptr;
};

static const char* kShim = R"(
#include <cmath>
#include <cstring>
using std::isinf; using std::isfinite;
#define TESSERA_EMULATED
#define __global__
#define __restrict__
typedef unsigned char bool8;
typedef unsigned short bf16;
#define FORCE static inline
struct Place { unsigned x, y; };
static Place blockIdx, blockDim, threadIdx;
static inline float __uint_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
static inline float __int_as_float(unsigned u) { return __uint_as_float(u); }
FORCE unsigned short narrow(float x) { unsigned u; std::memcpy(&u, &x, 4); if (x != x) return 0x7fc0; return (u + 0x7fff + ((u >> 16) & 1)) >> 16; }
)";

const CompiledKernel* compiled(const std::string& source, const std::string& name, const std::string& defines, int) {
  static std::map<std::string, std::unique_ptr<CompiledKernel>> known;
  auto& found = known[source];
  if (found) return found.get();
  static int number = 0;
  const std::string base = "/tmp/tessera-emulated-" + std::to_string(getpid()) + "-" + std::to_string(number++);
  std::string header = source.substr(source.find("void " + name + "("));
  header = header.substr(0, header.find(")"));
  size_t count = 1;
  for (char c : header) count += c == ',';
  std::string call;
  size_t at = header.find("(") + 1;
  for (size_t k = 0; k < count; k++) {
    size_t end = header.find(",", at);
    std::string parameter = header.substr(at, end == std::string::npos ? end : end - at);
    std::string type = parameter.substr(0, parameter.find("*") + 1);
    call += (k ? ", " : "") + std::string("*(") + type + "*)a[" + std::to_string(k) + "]";
    at = end + 1;
  }
  std::ofstream(base + ".cc") << kShim << defines << source << "extern \"C\" void run(unsigned gx, unsigned gy, unsigned b, void** a) {\n"
                              << "for (unsigned x = 0; x < gx; x++) for (unsigned t = 0; t < b; t++) { blockIdx = {x, 0}; blockDim = {b, 1}; threadIdx = {t, 0}; "
                              << name << "(" << call << "); } }\n";
  const std::string command = "g++ -std=c++17 -O0 -w -shared -fPIC -o " + base + ".so " + base + ".cc 2>" + base + ".log";
  TORCH_CHECK(std::system(command.c_str()) == 0, "a kernel does not compile: ", base, ".log");
  void* library = dlopen((base + ".so").c_str(), RTLD_NOW);
  found = std::make_unique<CompiledKernel>();
  found->run = reinterpret_cast<void (*)(unsigned, unsigned, unsigned, void**)>(dlsym(library, "run"));
  for (const char* suffix : {".cc", ".so", ".log"}) std::remove((base + suffix).c_str());
  return found.get();
}

void launch(const CompiledKernel* kernel, int64_t gridX, int64_t gridY, int64_t block, std::vector<void*> arguments, int64_t, bool) {
  kernel->run(static_cast<unsigned>(gridX), static_cast<unsigned>(gridY), static_cast<unsigned>(block), arguments.data());
}
bool stopOverlapping() { return false; }

#else

struct CompiledKernel {};
const CompiledKernel* compiled(const std::string&, const std::string&, const std::string&, int) {
  TORCH_CHECK(false, "this addon was built against a PyTorch without CUDA");
}
void launch(const CompiledKernel*, int64_t, int64_t, int64_t, std::vector<void*>, int64_t, bool) {}
bool stopOverlapping() { return false; }

#endif

}  // namespace tessera
