// Any machine: fused multiply-adds from the C library, slow and right.
#include <cmath>

#include "reference/kernels/matmul_tile.h"

namespace foretoken::reference::detail {
namespace {

template <class T>
struct One {
  using Scalar = T;
  static constexpr int kWidth = 1;
  static T zero() { return 0; }
  static T load(const T* p) { return *p; }
  static T load_some(const T* p, std::int64_t) { return *p; }
  static T broadcast(const T* p) { return *p; }
  static T fma(T a, T b, T c) { return std::fma(a, b, c); }
  static T add(T a, T b) { return a + b; }
  static T mul(T a, T b) { return a * b; }
  static void store(T* p, T value) { *p = value; }
  static void store_some(T* p, T value, std::int64_t) { *p = value; }
};

}  // namespace

constinit const Kernels<double> kPortableDouble = {
    .panel_rows = 4, .tile_rows = 2, .pack = {}, .tile = any_tile<One<double>, 4, 2>, .direct = {}};
constinit const Kernels<float> kPortableFloat = {
    .panel_rows = 4, .tile_rows = 2, .pack = {}, .tile = any_tile<One<float>, 4, 2>, .direct = {}};

}  // namespace foretoken::reference::detail
