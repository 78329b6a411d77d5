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
class KernelPredictor : public Predictor {
 public:
  explicit KernelPredictor(std::filesystem::path configs);

  [[nodiscard]] bool handles(const Case& c) const override;
  Prediction predict(const Case& c) override;

 private:
  // A chip and its rates: as fitted first, then with one constant moved at a time.
  struct Chip {
    hwmodels::Hardware hardware;
    std::vector<hwmodels::Rates> rates;
  };

  Prediction time_of(const DenseGemmCase& c);
  Prediction time_of(const GroupedGemmCase& c);
  Prediction time_of(const RoutedExpertsCase& c);
  Prediction time_of(const AttentionModuleCase& c);
  Prediction time_of(const IndexLogitsCase& c);
  Prediction time_of(const TopKCase& c);
  Prediction time_of(const SparseAttentionCase& c);
  Prediction time_of(const HyperConnectionCase& c);
  template <class Other>
  Prediction time_of(const Other& c);

  // The chip with the designs of the case's software stack.
  const Chip& chip(const Origin& origin);
  [[nodiscard]] const hwmodels::Stack& stack(const Origin& origin) const;
  const workloads::ModelSpec& model(const std::string& name);
  // Of kernels one after another, each made of one operator, `times` over.
  static double seconds_of(const Chip& chip, const hwmodels::Rates& rates,
                           std::span<const workloads::Op> ops);
  static Prediction kernels(const Chip& chip, std::span<const workloads::Op> ops, double times);
  // The attention half of one layer, without mHC, its input norm and traffic.
  workloads::OpGraph attention_half(const Chip& chip, const AttentionModuleCase& c);
  template <class Evaluate>
  static Prediction over_tunings(const Chip& chip, Evaluate&& seconds);

  std::filesystem::path configs_;
  std::map<std::string, hwmodels::Stack> stacks_;
  std::map<std::string, std::unique_ptr<Chip>> chips_;
  std::map<std::string, workloads::ModelSpec> models_;
};

}  // namespace foretoken::analysis::validation
