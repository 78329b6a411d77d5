# SystemC behind one interface target, `foretoken_systemc`.
#
# The library records the C++ standard it was built for in a symbol (sc_api_version_..._cxxNNNNNN), and
# code compiled for another standard does not link unless SC_CPLUSPLUS names the library's. Debian's
# 2.3.4 is C++17, this project is C++20, so the value is probed rather than assumed.

find_path(SYSTEMC_INCLUDE_DIR systemc.h REQUIRED)
find_library(SYSTEMC_LIBRARY systemc REQUIRED)

set(_systemc_probe ${CMAKE_BINARY_DIR}/systemc_probe.cc)
file(WRITE ${_systemc_probe} "#include <systemc>\nint sc_main(int, char**) { return sc_core::sc_time_stamp() == sc_core::SC_ZERO_TIME ? 0 : 1; }\n")
set(SYSTEMC_CPLUSPLUS "")
foreach(candidate 202002L 201703L 201402L 201103L)
  try_compile(SYSTEMC_LINKS_${candidate} ${CMAKE_BINARY_DIR}/systemc_probe_${candidate} ${_systemc_probe}
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${SYSTEMC_INCLUDE_DIR}" -DCMAKE_CXX_STANDARD=20
    COMPILE_DEFINITIONS -DSC_CPLUSPLUS=${candidate}
    LINK_LIBRARIES ${SYSTEMC_LIBRARY}
    CXX_STANDARD 20)
  if(SYSTEMC_LINKS_${candidate})
    set(SYSTEMC_CPLUSPLUS ${candidate})
    break()
  endif()
endforeach()
if(NOT SYSTEMC_CPLUSPLUS)
  message(FATAL_ERROR "SystemC at ${SYSTEMC_LIBRARY} does not link under any known SC_CPLUSPLUS")
endif()
message(STATUS "SystemC: ${SYSTEMC_LIBRARY}, SC_CPLUSPLUS=${SYSTEMC_CPLUSPLUS}")

add_library(foretoken_systemc INTERFACE)
target_include_directories(foretoken_systemc SYSTEM INTERFACE ${SYSTEMC_INCLUDE_DIR})
target_compile_definitions(foretoken_systemc INTERFACE SC_CPLUSPLUS=${SYSTEMC_CPLUSPLUS})
target_link_libraries(foretoken_systemc INTERFACE ${SYSTEMC_LIBRARY})
