# What every target of this project shares: warnings, sanitizers, the include root.

add_library(foretoken_options INTERFACE)
target_include_directories(foretoken_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_features(foretoken_options INTERFACE cxx_std_20)
target_compile_options(foretoken_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wpedantic
  -Wno-restrict  # GCC 12 reports overlapping copies inside std::string that cannot happen (PR 105651)
  $<$<BOOL:${FORETOKEN_WERROR}>:-Werror>)
if(FORETOKEN_SANITIZE)
  target_compile_options(foretoken_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(foretoken_options INTERFACE -fsanitize=address,undefined)
endif()

# foretoken_library(NAME SOURCES a.cc ... [PUBLIC lib ...] [PRIVATE lib ...])
function(foretoken_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC ${ARG_PUBLIC} PRIVATE foretoken_options ${ARG_PRIVATE})
endfunction()

# foretoken_test(NAME SOURCES a_test.cc ... [LIBRARIES lib ...] [SYSTEMC] [SLOW])
# One binary per folder; each test becomes one ctest entry. SYSTEMC links the main that SystemC needs.
# SLOW gives the tests the label that only `scripts/test --all` runs.
function(foretoken_test name)
  cmake_parse_arguments(ARG "SYSTEMC;SLOW" "" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE foretoken_options ${ARG_LIBRARIES} GTest::gmock)
  if(ARG_SYSTEMC)
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/sc_test_main.cc)
    target_link_libraries(${name} PRIVATE GTest::gtest foretoken_systemc)
  else()
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
  endif()
  target_compile_definitions(${name} PRIVATE
    FORETOKEN_SOURCE_DIR="${CMAKE_SOURCE_DIR}" FORETOKEN_BINARY_DIR="${CMAKE_BINARY_DIR}")
  set(labels fast)
  if(ARG_SLOW)
    set(labels slow)
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${labels} TIMEOUT 300)
endfunction()
