// The warpgroup matrix instruction (wgmma) of Hopper, one struct per operand type and width N:
// D[64, N] += A[64, K] x B[N, K]^T, where K is 32 bytes, FP32 accumulation. A comes from shared
// memory (from_shared) or from registers (from_registers), B always from shared memory.
#pragma once

#include <cstdint>

namespace microbench {

struct Bf16 {
  static constexpr const char* kName = "bf16";
  static constexpr int kK = 16;  // elements in 32 bytes
};
struct E4m3 {
  static constexpr const char* kName = "e4m3";
  static constexpr int kK = 32;
};

template <class In, int kN>
struct Wgmma;

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Shared-memory matrix descriptor of a K-major tile with rows of 128 bytes in the 128-byte swizzle:
// groups of eight rows lie 1024 bytes apart. The tile starts at a multiple of 1024 bytes; moving
// along K by one instruction adds 32 bytes to the address.
__device__ inline uint64_t tile_descriptor(uint32_t shared_address) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kGroupStride = uint64_t{1024 / 16} << 32;
  constexpr uint64_t kLeadingIgnored = uint64_t{1} << 16;
  return kSwizzle128 | kGroupStride | kLeadingIgnored | ((shared_address & 0x3ffff) >> 4);
}
constexpr uint64_t kDescriptorStep = 32 / 16;  // along K, one instruction

// Accumulator operands: names %0 ... and constraints, in fours.
// clang-format off
#define WGMMA_D4 "%0,%1,%2,%3"
#define WGMMA_D8 WGMMA_D4 \
  ",%4,%5,%6,%7"
#define WGMMA_D16 WGMMA_D8 \
  ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WGMMA_D32 WGMMA_D16 \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_D64 WGMMA_D32 \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define WGMMA_D128 WGMMA_D64 \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define WGMMA_C4(o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3])
#define WGMMA_C8(o) WGMMA_C4(o), WGMMA_C4(o + 4)
#define WGMMA_C16(o) WGMMA_C8(o), WGMMA_C8(o + 8)
#define WGMMA_C32(o) WGMMA_C16(o), WGMMA_C16(o + 16)
#define WGMMA_C64(o) WGMMA_C32(o), WGMMA_C32(o + 32)
#define WGMMA_C128(o) WGMMA_C64(o), WGMMA_C64(o + 64)

// k: registers per thread of D (N / 2); i0 ... i4: the operand numbers k ... k + 4 that follow them.
#define WGMMA_STRUCT(In, N, shape, tail_shared, tail_registers, k, i0, i1, i2, i3, i4)             \
  template <>                                                                                      \
  struct Wgmma<In, N> {                                                                            \
    static __device__ void from_shared(float (&d)[k], uint64_t a, uint64_t b) {                    \
      asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned." shape       \
                   " {" WGMMA_D##k "}, %" #i0 ", %" #i1 ", p, 1, 1" tail_shared ";}"               \
                   : WGMMA_C##k(0)                                                                 \
                   : "l"(a), "l"(b));                                                              \
    }                                                                                              \
    static __device__ void from_registers(float (&d)[k], const uint32_t (&a)[4], uint64_t b) {     \
      asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned." shape       \
                   " {" WGMMA_D##k "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 "}, %" #i4 ", p, 1, 1"   \
                   tail_registers ";}"                                                             \
                   : WGMMA_C##k(0)                                                                 \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                          \
    }                                                                                              \
  };
#define WGMMA_BOTH(N, k, i0, i1, i2, i3, i4)                                                       \
  WGMMA_STRUCT(Bf16, N, "m64n" #N "k16.f32.bf16.bf16", ", 0, 0", ", 0", k, i0, i1, i2, i3, i4)     \
  WGMMA_STRUCT(E4m3, N, "m64n" #N "k32.f32.e4m3.e4m3", "", "", k, i0, i1, i2, i3, i4)

WGMMA_BOTH(8, 4, 4, 5, 6, 7, 8)
WGMMA_BOTH(16, 8, 8, 9, 10, 11, 12)
WGMMA_BOTH(32, 16, 16, 17, 18, 19, 20)
WGMMA_BOTH(64, 32, 32, 33, 34, 35, 36)
WGMMA_BOTH(128, 64, 64, 65, 66, 67, 68)
WGMMA_BOTH(256, 128, 128, 129, 130, 131, 132)
// clang-format on

#undef WGMMA_D4
#undef WGMMA_C4
#undef WGMMA_D8
#undef WGMMA_C8
#undef WGMMA_D16
#undef WGMMA_C16
#undef WGMMA_D32
#undef WGMMA_C32
#undef WGMMA_D64
#undef WGMMA_C64
#undef WGMMA_D128
#undef WGMMA_C128
#undef WGMMA_STRUCT
#undef WGMMA_BOTH

}  // namespace microbench
