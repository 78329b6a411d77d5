#include "hwmodels/chip_spec.h"

#include <fmt/format.h>

#include "sim/base/error.h"

namespace foretoken::hwmodels {

using base::ConfigVisitor;
using base::Need;
using base::UnitKind;
using workloads::Dtype;

base::FlopsPerSecond ChipSpec::peak(Dtype dtype) const {
  const base::FlopsPerSecond rate = matrix.peak[static_cast<std::size_t>(dtype)];
  if (rate.value() <= 0.0) {
    throw base::UnsupportedError(fmt::format(
        "{} has no {} peak: its matrix unit cannot multiply that dtype", name, to_string(dtype)));
  }
  return rate;
}

namespace {

constexpr std::array<std::string_view, 3> kStatusNames = {"shipping", "preliminary", "placeholder"};
constexpr std::array<std::string_view, 3> kExchangeNames = {"registers", "direct", "cache"};
constexpr std::array<std::string_view, 2> kWidenNames = {"native", "vector"};

void describe_matrix(ConfigVisitor& v, MatrixUnit& m) {
  base::group(v, {"peak", "dense peak of the whole chip by operand dtype; absent = cannot"}, [&] {
    bool any = false;
    for (int i = 0; i < workloads::kDtypeCount; ++i) {
      const auto d = static_cast<Dtype>(i);
      if (d == Dtype::kInt32 || d == Dtype::kInt64) continue;
      base::quantity(v, {to_string(d), "dense peak", Need::kOptional}, m.peak[i]);
      any = any || m.peak[i].value() > 0.0;
    }
    v.check(any, "", "no dtype has a peak");
  });
  v.integer({"tile_rows", "rows of the smallest tile that runs at full rate (weight side)"},
            m.tile_rows, {.min = 1, .max = 4096});
  v.integer({"tile_columns", "columns of the smallest tile that runs at full rate (token side)"},
            m.tile_columns, {.min = 1, .max = 4096});
  base::quantity(v, {"operand_feed", "from a core's local memory into its matrix unit"},
                 m.operand_feed);
  base::quantity(v, {"head", "time before a matrix instruction runs at its rate"}, m.head,
                 base::kNonNegative);
  base::choice(v, {"fp4_widen", "who turns FP4 weights into FP8 operands"}, m.fp4_widen,
               kWidenNames);
  v.real({"fp4_fp8_rate", "FP4 x FP8 rate over the FP8 rate", Need::kOptional}, m.fp4_fp8_rate,
         UnitKind::kNumber, {.min = 0.25, .max = 8.0});
  v.text({"source", "id in configs/sources.yaml"}, m.source);
}

}  // namespace

void describe(ConfigVisitor& v, ChipSpec& chip) {
  v.text({"name", "the name other files use; equals the file's name"}, chip.name);
  v.text({"title", "the name people use"}, chip.title);
  v.text({"vendor", "who makes it"}, chip.vendor);
  v.text({"family", "chips of one family share calibration until measured themselves"},
         chip.family);
  base::choice(v, {"status", "shipping, preliminary (numbers may change) or placeholder"},
               chip.status, kStatusNames);
  v.text({"note", "what a reader must know", Need::kOptional}, chip.note);
  base::group(v, {"core", "cores that run work items"}, [&] {
    v.integer({"count", "cores on the chip"}, chip.cores, {.min = 1, .max = 100'000});
    base::quantity(v, {"clock", "at which the peaks hold"}, chip.clock);
    base::quantity(v, {"bandwidth", "most one core can draw from memory"}, chip.core_bandwidth);
    v.text({"bandwidth_source", "id in configs/sources.yaml"}, chip.core_bandwidth_source);
    v.text({"source", "id in configs/sources.yaml"}, chip.core_source);
    base::group(v, {"exchange", "between matrix and vector units of a core"}, [&] {
      base::choice(v, {"path", "registers, direct or cache"}, chip.exchange, kExchangeNames);
      base::quantity(v, {"bandwidth", "of a direct path, per core", Need::kOptional},
                     chip.exchange_rate);
      v.check(chip.exchange != Exchange::kDirect || chip.exchange_rate.value() > 0.0, "path",
              "a direct path needs its 'bandwidth'");
    });
    base::quantity(v, {"gather_granularity", "bytes that a read of a single row fetches at least"},
                   chip.gather_granularity);
    base::list(v, {"local_memory", "memories inside one core", Need::kOptional}, chip.local_memory,
               [](ConfigVisitor& w, LocalMemory& m) {
                 w.text({"name", "smem, tmem, l1, l0a, ..."}, m.name);
                 base::quantity(w, {"capacity", "per core"}, m.capacity);
                 w.text({"source", "id in configs/sources.yaml"}, m.source);
               },
               {.min = 0, .max = 16});
  });
  base::group(v, {"matrix_unit", "all cores together"}, [&] { describe_matrix(v, chip.matrix); });
  base::group(v, {"vector_unit", "all cores together"}, [&] {
    base::quantity(v, {"fp32", "peak at 32 bits"}, chip.vector.fp32);
    base::quantity(v, {"fp16", "peak at 16 bits"}, chip.vector.fp16);
    v.real({"special_rate", "exp, reciprocal and square root per FP32 FLOP of the peak",
            Need::kOptional},
           chip.vector.special_rate, UnitKind::kNumber, base::kFraction);
    v.real({"convert_rate", "block-scaled FP8 numbers unpacked per FP32 FLOP of the peak"},
           chip.vector.convert_rate, UnitKind::kNumber, base::kFraction);
    base::quantity(v, {"step_latency", "least time of a step that needs the one before"},
                   chip.vector.step_latency);
    v.text({"source", "id in configs/sources.yaml"}, chip.vector.source);
  });
  base::list(v, {"memory", "levels of the whole chip, outermost first: hbm, l2"}, chip.memory,
             [](ConfigVisitor& w, MemoryLevel& m) {
               w.text({"name", "hbm, l2"}, m.name);
               base::quantity(w, {"capacity", "usable"}, m.capacity);
               base::quantity(w, {"bandwidth", "reads"}, m.bandwidth);
               base::quantity(w, {"latency", "of one dependent read"}, m.latency);
               w.text({"source", "id in configs/sources.yaml"}, m.source);
             },
             {.min = 2, .max = 2});
  base::group(v, {"host", "the way to host memory"}, [&] {
    base::quantity(v, {"bandwidth", "per direction"}, chip.host_bandwidth);
    v.text({"source", "id in configs/sources.yaml"}, chip.host_source);
  });
  base::group(v, {"power", "of the chip with its memory"}, [&] {
    v.ranged({"tdp", "at full load"}, chip.tdp_watts, UnitKind::kWatts, {});
    v.text({"source", "id in configs/sources.yaml"}, chip.power_source);
  });
}

}  // namespace foretoken::hwmodels
