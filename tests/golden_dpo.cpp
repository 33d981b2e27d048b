// Another language holds itself against the golden file: DPO in C++, in double and in float.
//     c++ -std=c++17 golden_dpo.cpp -o golden_dpo
//     dpo-numpy golden dpo --seam pair --format lines | ./golden_dpo
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

template <class Real>
std::array<Real, 3> dpo(Real w, Real l, Real ref_w, Real ref_l, Real beta) {
  const Real z = beta * (w - ref_w - (l - ref_l));
  const Real e = std::exp(-std::abs(z));  // at most 1
  const Real value = z > 0 ? std::log1p(e) : std::log1p(e) - z;
  const Real slope = -beta * (z > 0 ? e : 1) / (1 + e);
  return {value, slope, -slope};
}

struct Case {
  std::string what;
  std::map<std::string, std::vector<double>> numbers;  // "inputs.logp": row by row
};

// The next case, whole; false where there is none.
bool read(std::istream& file, Case& found) {
  found = {};
  for (std::string line, name, word; std::getline(file, line);) {
    std::istringstream words(line);
    words >> name >> word;  // and the shape, which is known of this loss
    if (name == "end") return true;
    if (name == "case") words >> word >> found.what;
    else while (words >> word) found.numbers[name].push_back(std::strtod(word.c_str(), nullptr));
  }
  return false;
}

template <class Real>
Real ulp(Real x) {
  return std::nextafter(std::abs(x), std::numeric_limits<Real>::infinity()) - std::abs(x);
}

template <class Real>
bool check(const std::vector<Case>& cases, const char* real) {
  int checked = 0;
  double worst = 0;
  bool agrees = true;
  for (const auto& [what, numbers] : cases) {
    const auto &logp = numbers.at("inputs.logp"), &ref_logp = numbers.at("inputs.ref_logp");
    const auto &value = numbers.at("value"), &grad = numbers.at("grad.logp");
    const Real beta = numbers.at("hyper.beta")[0];
    for (std::size_t b = 0; b < value.size(); ++b) {
      const Real w = logp[2 * b], l = logp[2 * b + 1], ref_w = ref_logp[2 * b], ref_l = ref_logp[2 * b + 1];
      const auto ours = dpo(w, l, ref_w, ref_l, beta);
      const double golden[] = {value[b], grad[2 * b], grad[2 * b + 1]};
      // how far the exact answer moves when each log-prob moves by an ulp; a slope, β times that at most
      const double moves = std::abs(golden[1]) * (ulp(w) + ulp(l) + ulp(ref_w) + ulp(ref_l));
      for (int i = 0; i < 3; ++i, ++checked) {
        const Real rounded = static_cast<Real>(golden[i]);  // infinite beyond the range of a float
        const double unit = ulp(rounded) + moves * (i ? beta : 1);
        const double off = ours[i] == rounded ? 0 : std::abs(ours[i] - golden[i]) / unit;
        worst = std::fmax(worst, off);
        if (off <= 4) continue;
        agrees = false;  // for NaN too
        std::printf("%s, row %zu: %.17g is %.3g units off %.17g\n", what.c_str(), b, double(ours[i]), off, golden[i]);
      }
    }
  }
  std::printf("dpo, %s: %d numbers, at most %.2g units of rounding off\n", real, checked, worst);
  return checked > 0 && agrees;
}

int main() {
  std::vector<Case> cases;
  for (Case found; read(std::cin, found);) cases.push_back(found);
  const bool in_double = check<double>(cases, "double"), in_float = check<float>(cases, "float");
  return in_double && in_float ? 0 : 1;
}
