// Eigen's float product, for comparison. Built once per instruction set, each as a shared library
// of its own that shows nothing but this function: Eigen's templates would otherwise merge across
// them into whichever the linker met first.
#include <Eigen/Core>

using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// y[m, n] = x[m, k] w[n, k]^T on `threads` threads.
extern "C" [[gnu::visibility("default")]] void FORETOKEN_EIGEN_GEMM(const float* x, const float* w,
                                                                    float* y, long m, long n,
                                                                    long k, int threads) {
  Eigen::setNbThreads(threads);
  const Eigen::Map<const RowMajor> inputs(x, m, k);
  const Eigen::Map<const RowMajor> weights(w, n, k);
  Eigen::Map<RowMajor> outputs(y, m, n);
  outputs.noalias() = inputs * weights.transpose();
}
