// The SystemC library brings its own main, which calls sc_main: tests that link it start here.
#include <gtest/gtest.h>

extern "C" int sc_main(int argc, char* argv[]) {
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
