// A study of expert waves as tables, CSV, JSON, Markdown and a page that opens offline.
#pragma once

#include <string>

#include "analysis/expert_study.h"
#include "analysis/reports/table.h"

namespace foretoken::analysis {

Table overlap_table(const ExpertStudyResult& result);
Table solution_table(const ExpertStudyResult& result);
Table hardware_table(const ExpertStudyResult& result);
Table speedup_table(const ExpertStudyResult& result);
// Where the time of the fused layers and of the separate kernels goes.
Table breakdown_table(const ExpertStudyResult& result);

std::string expert_csv(const ExpertStudyResult& result);
std::string expert_json(const ExpertStudyResult& result);
std::string expert_markdown(const ExpertStudyResult& result);
std::string expert_html(const ExpertStudyResult& result);

}  // namespace foretoken::analysis
