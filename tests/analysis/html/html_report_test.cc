// HtmlReport tests read the page's text; HtmlPage tests open it in a browser through
// check_report.sh.
#include "analysis/reports/html/html_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace foretoken::analysis {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::string contents(const std::string& path) {
  const std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// A made-up sweep of 4 models, 5 systems and 6 contexts, with points of every status. Its title
// tries to leave the element it is put in.
std::string fixture_text() {
  return contents(FORETOKEN_SOURCE_DIR "/tests/analysis/html/context_sweep.json");
}

json fixture() { return json::parse(fixture_text()); }

std::size_t occurrences(std::string_view text, std::string_view part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string_view::npos;
       at = text.find(part, at + part.size())) {
    ++n;
  }
  return n;
}

// The part of the page before the data and the scripts that draw it.
std::string static_part(const std::string& page) {
  return page.substr(0, page.find("<script type=\"application/json\""));
}

void append_to_every_string(json& value, const std::string& suffix) {
  if (value.is_string()) {
    value = value.get<std::string>() + suffix;
  } else if (value.is_structured()) {
    for (json& part : value) {
      append_to_every_string(part, suffix);
    }
  }
}

struct Check {
  int status;
  std::string said;
};

// What check_report.sh finds on the page.
Check check_in_browser(const std::string& page, const std::string& name) {
  const std::filesystem::path folder = FORETOKEN_BINARY_DIR "/html_report_pages";
  std::filesystem::create_directories(folder);
  const std::string file = (folder / (name + ".html")).string();
  const std::string log = (folder / (name + ".log")).string();
  std::ofstream(file) << page;
  const std::string command = "'" FORETOKEN_SOURCE_DIR "/tests/analysis/html/check_report.sh' '" +
                              file + "' >'" + log + "' 2>&1";
  const int status = std::system(command.c_str());
  return {.status = status, .said = contents(log)};
}

TEST(HtmlReport, AnswersWithoutScripts) {
  const std::string page = static_part(render_html(fixture_text()));
  EXPECT_THAT(page, HasSubstr("All numbers on this page are made up for a test."));
  EXPECT_THAT(page, HasSubstr("<th scope=\"rowgroup\" rowspan=\"6\">DeepSeek V4 Pro</th>"));
  EXPECT_THAT(page, HasSubstr("<td class=\"num\">128K</td>"));
  EXPECT_THAT(page, HasSubstr("<td class=\"num\">1M</td>"));
  EXPECT_THAT(page, HasSubstr("Half of the input tokens are cache hits &amp; cost &lt; 10 %"));
  EXPECT_THAT(page, HasSubstr("<td>A made-up datasheet</td>"));
  EXPECT_THAT(page, HasSubstr("<noscript>"));
}

TEST(HtmlReport, WritesCostsWithThreeDigitsAndTheirRange) {
  json results = fixture();
  json& row = results["answer"]["rows"][0];
  row["cost_usd_per_mtok_output"] = {{"low", 0.0396}, {"value", 0.41999}, {"high", 1234.5}};
  row["runner_up_cost_usd_per_mtok_output"] = {
      {"low", 0.99961}, {"value", 12.345}, {"high", 999.6}};
  const std::string page = static_part(render_html(results.dump()));
  EXPECT_THAT(page,
              HasSubstr("<strong>$0.420</strong> <span class=\"range\">$0.0396 to $1,230</span>"));
  EXPECT_THAT(page, HasSubstr("$12.3 <span class=\"range\">$1.00 to $1,000</span>"));
}

TEST(HtmlReport, ShowsMissingFieldsAsDashes) {
  json results = fixture();
  results["answer"]["rows"] = json::parse(R"([{"model": "m", "context": 100000}])");
  const std::string page = static_part(render_html(results.dump()));
  EXPECT_THAT(page, HasSubstr("<td class=\"num\">100,000</td><td>–</td>"));
  EXPECT_THAT(page, HasSubstr("<td>–</td></tr>"));
}

TEST(HtmlReport, KeepsHostileNamesInsideTheirElements) {
  const std::string hostile = "</script><img src=x onerror=alert(1)>\"'&{{js}}<!--<script>";
  json results = fixture();
  append_to_every_string(results, hostile);
  const std::string page = render_html(results.dump());
  const std::string plain = render_html(R"({"title": "t"})");
  EXPECT_EQ(occurrences(page, "</script>"), occurrences(plain, "</script>"));
  EXPECT_EQ(occurrences(page, "<script"), occurrences(plain, "<script"));
  EXPECT_EQ(occurrences(page, "<img"), occurrences(plain, "<img"));
  EXPECT_EQ(occurrences(page, "<!--"), occurrences(plain, "<!--"));
}

TEST(HtmlReport, KeepsTheDataUnchanged) {
  const std::string page = render_html(fixture_text());
  const std::string_view open = "<script type=\"application/json\" id=\"results\">";
  const std::size_t begin = page.find(open) + open.size();
  EXPECT_EQ(json::parse(page.substr(begin, page.find("</script>", begin) - begin)), fixture());
}

TEST(HtmlReport, RefusesWhatIsNotAJsonObject) {
  EXPECT_THROW(render_html("{"), std::invalid_argument);
  EXPECT_THROW(render_html("[]"), std::invalid_argument);
  EXPECT_THROW(render_html(""), std::invalid_argument);
}

TEST(HtmlReport, RendersResultsThatHoldNothing) {
  const std::string page = render_html("{}");
  EXPECT_THAT(page, HasSubstr("No system can be named"));
  EXPECT_THAT(page, Not(HasSubstr("{{")));
}

TEST(HtmlPage, DrawsEveryChart) {
  const Check check = check_in_browser(render_html(fixture_text()), "full");
  EXPECT_EQ(check.status, 0) << check.said;
  EXPECT_THAT(check.said, HasSubstr("7 of 7 charts drawn"));
}

TEST(HtmlPage, DrawsTheCurvesWhenThereAreNoPoints) {
  json results = fixture();
  results["points"] = json::array();
  results["answer"]["rows"] = json::array();
  const Check check = check_in_browser(render_html(results.dump()), "no_points");
  EXPECT_EQ(check.status, 0) << check.said;
  EXPECT_THAT(check.said, HasSubstr("2 of 2 charts drawn"));
}

TEST(HtmlPage, DrawsTheCurvesWhenNothingFits) {
  json results = fixture();
  for (json& point : results["points"]) {
    point = {{"model", point["model"]},
             {"system", point["system"]},
             {"context", point["context"]},
             {"status", "does_not_fit"}};
  }
  const Check check = check_in_browser(render_html(results.dump()), "nothing_fits");
  EXPECT_EQ(check.status, 0) << check.said;
  EXPECT_THAT(check.said, HasSubstr("2 of 2 charts drawn"));
}

TEST(HtmlPage, DrawsASingleContext) {
  json results = fixture();
  json points = json::array();
  for (const json& point : results["points"]) {
    if (point["context"] == 131072) {
      points.push_back(point);
    }
  }
  results["points"] = points;
  results["contexts"] = {131072};
  const Check check = check_in_browser(render_html(results.dump()), "single_context");
  EXPECT_EQ(check.status, 0) << check.said;
}

TEST(HtmlPage, DrawsChartsWithHostileNames) {
  json results = fixture();
  for (const char* group : {"models", "systems"}) {
    for (json& item : results[group]) {
      item["title"] =
          item["title"].get<std::string>() + " </script><img src=x onerror=alert(1)>{a|b}";
    }
  }
  const Check check = check_in_browser(render_html(results.dump()), "hostile");
  EXPECT_EQ(check.status, 0) << check.said;
}

TEST(HtmlPage, IsFoundBrokenWithoutCurves) {
  json results = fixture();
  results.erase("curves");
  const Check check = check_in_browser(render_html(results.dump()), "without_curves");
  EXPECT_NE(check.status, 0);
  EXPECT_THAT(check.said, HasSubstr("5 of 7 charts drawn"));
}

TEST(HtmlPage, IsFoundBrokenWhenACurveHasNoValues) {
  json results = fixture();
  for (json& curve : results["curves"]) {
    curve.erase("kv_bytes_cache");
  }
  const Check check = check_in_browser(render_html(results.dump()), "without_kv");
  EXPECT_NE(check.status, 0);
  EXPECT_THAT(check.said, HasSubstr("6 of 7 charts drawn"));
}

TEST(HtmlPage, IsFoundBrokenWhenAScriptFails) {
  std::string page = render_html(fixture_text());
  page.insert(page.rfind("</body>"), "<script>undefined_name();</script>");
  const Check check = check_in_browser(page, "script_error");
  EXPECT_NE(check.status, 0);
  EXPECT_THAT(check.said, HasSubstr("script errors: 1"));
}

TEST(HtmlPage, IsFoundBrokenWhenItLoadsFromElsewhere) {
  std::string page = render_html(fixture_text());
  page.insert(page.rfind("</body>"), "<img src=\"https://example.com/a.png\">");
  const Check check = check_in_browser(page, "external");
  EXPECT_NE(check.status, 0);
  EXPECT_THAT(check.said, HasSubstr("refers to another host"));
}

}  // namespace
}  // namespace foretoken::analysis
