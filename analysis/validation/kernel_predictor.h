// Predicts single kernels and attention modules from the operators they compute.
#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "analysis/validation/predictor.h"
#include "hwmodels/hardware.h"
#include "hwmodels/stack.h"
#include "workloads/op.h"
#include "workloads/op_graph.h"

namespace foretoken::analysis::validation {

// Tile programs: one kernel per operator, or as the software stack fuses them.
// The interval comes from moving every fitted constant to each end of its range.
class KernelPredictor : public TunablePredictor {
 public:
  // Chips in `calibrations` take their constants from there, others from their files.
  explicit KernelPredictor(std::filesystem::path configs, Calibrations calibrations = {});

  [[nodiscard]] bool handles(const Case& c) const override;
  Prediction predict(const Case& c) override;
  void calibrate(const std::string& chip, const hwmodels::Calibration& constants) override;
  base::Seconds time(const Case& c) override;

 private:
  // A chip and its rates: as fitted first, then with one constant moved at a time.
  struct Chip {
    hwmodels::Hardware hardware;
    std::vector<hwmodels::Rates> rates;

    void derive();
  };

  Prediction time_of(const DenseGemmCase& c);
  Prediction time_of(const GroupedGemmCase& c);
  Prediction time_of(const RoutedExpertsCase& c);
  Prediction time_of(const AttentionModuleCase& c);
  Prediction time_of(const IndexLogitsCase& c);
  Prediction time_of(const TopKCase& c);
  Prediction time_of(const SparseAttentionCase& c);
  Prediction time_of(const HyperConnectionCase& c);
  Prediction time_of(const CollectiveCase& c);
  Prediction time_of(const ExpertTrafficCase& c);
  template <class Other>
  Prediction time_of(const Other& c);

  // The chip with the designs of the case's software stack.
  // `paged`: scores of prompts are taken by the kernel of decoding, which reads keys by pages.
  const Chip& chip(const Origin& origin, bool paged = false);
  // The chip in a system of at least `devices`: the largest scale-up domain there is with it, and
  // as many of those side by side as it takes.
  const Chip& system_of(const std::string& chip, std::int64_t devices);
  [[nodiscard]] const hwmodels::Stack& stack(const Origin& origin) const;
  const workloads::ModelSpec& model(const std::string& name);
  // Of kernels one after another, each made of one operator, `times` over.
  static double seconds_of(const Chip& chip, const hwmodels::Rates& rates,
                           std::span<const workloads::Op> ops);
  [[nodiscard]] Prediction kernels(const Chip& chip, std::span<const workloads::Op> ops,
                                   double times) const;
  // The attention half of one layer, without mHC, its input norm and traffic.
  workloads::OpGraph attention_half(const Chip& chip, const AttentionModuleCase& c);
  template <class Evaluate>
  [[nodiscard]] Prediction over_tunings(const Chip& chip, Evaluate&& seconds) const;

  std::filesystem::path configs_;
  Calibrations calibrations_;
  bool value_only_ = false;  // no interval is asked for
  std::map<std::string, hwmodels::Stack> stacks_;
  std::map<std::string, std::unique_ptr<Chip>> chips_;
  std::map<std::string, workloads::ModelSpec> models_;
};

}  // namespace foretoken::analysis::validation
