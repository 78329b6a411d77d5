#include "sim/engine/simulate.h"

#include <cassert>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <systemc>

#include "sim/engine/graph_run.h"

// The SystemC library refers to sc_main, but calls it only from the library's own main. A program
// that starts there defines its own, with C linkage, which takes the place of this one.
extern "C" [[gnu::weak]] int sc_main(int /*argc*/, char* /*argv*/[]) {
  std::cerr << "error: started by the SystemC library, but without an extern \"C\" sc_main\n";
  return EXIT_FAILURE;
}

namespace foretoken::engine {
namespace {

// The clock of a graph run: one method, woken at the time of the run's next event.
class Kernel : public sc_core::sc_module {
 public:
  SC_HAS_PROCESS(Kernel);
  explicit Kernel(const sc_core::sc_module_name& name)
      : sc_module(name),
        ticks_per_second_(static_cast<double>(sc_core::sc_time(1.0, sc_core::SC_SEC).value())) {
    SC_METHOD(on_wake);
    sensitive << wake_;
    dont_initialize();
  }

  SimulateStats run(const task::TaskGraph& graph, task::Timeline& out,
                    const SimulateOptions& options) {
    assert(sc_core::sc_get_status() != sc_core::SC_RUNNING);
    run_.begin(graph, out, options.expand_repeats, options.tolerance);
    stats_ = {};
    error_ = nullptr;
    if (run_.done()) return stats_;
    origin_ = sc_core::sc_time_stamp().value();
    wake_at(ticks(run_.next_time()));
    sc_core::sc_start();  // until nothing is pending
    if (error_) std::rethrow_exception(error_);
    assert(run_.done());
    return stats_;
  }

 private:
  using Ticks = sc_core::sc_time::value_type;  // kernel time in units of its resolution

  // Converts a time since the run began to kernel time. Each event is rounded on its own, so that
  // rounding does not add up.
  [[nodiscard]] Ticks ticks(base::Seconds time) const {
    const double value = std::round(time.value() * ticks_per_second_);
    const Ticks left = std::numeric_limits<Ticks>::max() - origin_;
    // The limit itself is no double; what is below its nearest one converts.
    if (!(value < static_cast<double>(left)) || static_cast<Ticks>(value) >= left) {
      throw std::overflow_error("simulated time exceeds the range of the SystemC clock");
    }
    return origin_ + static_cast<Ticks>(value);
  }

  void wake_at(Ticks time) {
    wake_.notify(sc_core::sc_time::from_value(time - sc_core::sc_time_stamp().value()));
  }

  void on_wake() {
    ++stats_.events;
    // An exception that left a process would end the kernel for good.
    try {
      const Ticks now = sc_core::sc_time_stamp().value();
      while (!run_.done()) {
        const Ticks next = ticks(run_.next_time());
        if (next > now) {
          wake_at(next);
          return;
        }
        run_.step();
      }
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  const double ticks_per_second_;
  sc_core::sc_event wake_;
  GraphRun run_;
  SimulateStats stats_;
  Ticks origin_ = 0;  // kernel time at which the run began
  std::exception_ptr error_;
};

// SystemC reports on stdout, which is for results only.
void report_to_stderr(const sc_core::sc_report& report, const sc_core::sc_actions& actions) {
  if ((actions & sc_core::SC_DISPLAY) != 0 && report.get_severity() != sc_core::SC_INFO) {
    std::cerr << sc_core::sc_report_compose_message(report) << '\n';
  }
  sc_core::sc_report_handler::default_handler(
      report, actions & ~static_cast<sc_core::sc_actions>(sc_core::SC_DISPLAY));
}

// The one module of the process. SystemC can elaborate once, and its objects must not outlive the
// kernel's context, whose end the library decides: so it is made once and never destroyed.
Kernel& kernel() {
  static Kernel& instance = []() -> Kernel& {
    sc_core::sc_report_handler::set_handler(report_to_stderr);
    return *new Kernel("foretoken_engine");
  }();
  return instance;
}

}  // namespace

SimulateStats simulate(const task::TaskGraph& graph, task::Timeline& out,
                       const SimulateOptions& options) {
  return kernel().run(graph, out, options);
}

}  // namespace foretoken::engine
