// From projected Gaussians to depth-ordered splats and the list of those that touch each band.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bands.h"
#include "team.h"

// One view of a scene; arrays of `count` entries, `colors` is [count][channels].
struct View {
  const float *x, *y, *conic_xx, *conic_xy, *conic_yy, *opacity, *depth, *extent_x, *extent_y;
  const bool* visible;
  const float* colors;
  size_t count;
  int channels, width, height;
};

struct Plan {
  std::vector<Splat> splats;  // Front to back.
  std::vector<float> colors;
  std::vector<uint32_t> members;      // Indices of splats, band after band, front to back in each.
  std::vector<size_t> first_member;   // Where each band's members begin, and the end.
  size_t gradient_rows = 0;

  int bands() const { return static_cast<int>(first_member.size()) - 1; }

  Band band(const View& view, int index) const {
    Band band{};
    band.index = index;
    band.y0 = index * kBandRows;
    band.y1 = std::min(band.y0 + kBandRows, view.height);
    band.splats = splats.data();
    band.colors = colors.data();
    band.members = members.data() + first_member[index];
    band.member_count = first_member[index + 1] - first_member[index];
    band.channels = view.channels;
    band.stride = view.width + kMaxLanes;
    return band;
  }
};

// Pixels whose centre lies within `extent` of `centre`, clipped to [0, size); false where none.
inline bool pixel_range(float centre, float extent, int size, int32_t& begin, int32_t& end) {
  const float low = std::ceil(centre - extent - 0.5f), high = std::floor(centre + extent + 0.5f);
  if (!(low < static_cast<float>(size) && high > 0.f && low < high)) return false;
  begin = low > 0.f ? static_cast<int32_t>(low) : 0;
  end = high < static_cast<float>(size) ? static_cast<int32_t>(high) : size;
  return true;
}

// Describes Gaussian i; returns false where it touches no pixel or is not finite.
inline bool describe(const View& view, size_t i, Splat& s) {
  constexpr float kLog2E = 1.4426950408889634f;
  if (!view.visible[i] || !(view.depth[i] > 0.f) || !std::isfinite(view.depth[i])) return false;
  s.u = view.x[i];
  s.v = view.y[i];
  if (!pixel_range(s.u, view.extent_x[i], view.width, s.x0, s.x1)) return false;
  if (!pixel_range(s.v, view.extent_y[i], view.height, s.y0, s.y1)) return false;
  const float xx = view.conic_xx[i], xy = view.conic_xy[i], yy = view.conic_yy[i];
  if (!std::isfinite(xx + xy + yy)) return false;
  s.a = -0.5f * kLog2E * xx;
  s.b = -kLog2E * xy;
  s.c = -0.5f * kLog2E * yy;
  s.opacity = view.opacity[i];
  s.source = static_cast<uint32_t>(i);
  return true;
}

// Stable radix sort of `index` by `key`, 11 bits per pass.
inline void sort_by_key(std::vector<uint32_t>& key, std::vector<uint32_t>& index) {
  constexpr uint32_t kBins = 2048;
  const size_t n = key.size();
  std::vector<uint32_t> other_key(n), other_index(n), starts(3 * kBins);
  for (uint32_t k : key) {
    ++starts[k % kBins];
    ++starts[kBins + (k >> 11) % kBins];
    ++starts[2 * kBins + (k >> 22)];
  }
  for (int pass = 0; pass < 3; ++pass) {
    uint32_t* start = starts.data() + pass * kBins;
    uint32_t total = 0;
    for (uint32_t bin = 0; bin < kBins; ++bin) total += std::exchange(start[bin], total);
    for (size_t i = 0; i < n; ++i) {
      const uint32_t to = start[(key[i] >> (11 * pass)) % kBins]++;
      other_key[to] = key[i];
      other_index[to] = index[i];
    }
    key.swap(other_key);
    index.swap(other_index);
  }
}

constexpr size_t kPiece = 4096;  // Gaussians per parallel job.

inline Plan make_plan(const View& view, Team& team) {
  // Each piece of the Gaussians is described on its own; the pieces are then closed up.
  std::vector<Splat> described(view.count);
  std::vector<size_t> counts(view.count / kPiece + 1);
  team.run(counts.size(), [&](size_t piece) {
    const size_t begin = piece * kPiece, end = std::min(begin + kPiece, view.count);
    size_t n = begin;
    for (size_t i = begin; i < end; ++i) n += describe(view, i, described[n]);
    counts[piece] = n - begin;
  });
  // Positive floats compare as their bits do, so the depth itself is the sorting key.
  std::vector<uint32_t> key, index;
  key.reserve(view.count);
  index.reserve(view.count);
  for (size_t piece = 0; piece < counts.size(); ++piece) {
    for (size_t i = piece * kPiece; i < piece * kPiece + counts[piece]; ++i) {
      uint32_t bits;
      std::memcpy(&bits, &view.depth[described[i].source], sizeof bits);
      key.push_back(bits);
      index.push_back(static_cast<uint32_t>(i));
    }
  }
  sort_by_key(key, index);

  Plan plan;
  const size_t n = index.size(), channels = view.channels;
  plan.splats.resize(n);
  plan.colors.resize(n * channels);
  team.run((n + kPiece - 1) / kPiece, [&](size_t piece) {
    for (size_t j = piece * kPiece; j < std::min((piece + 1) * kPiece, n); ++j) {
      const Splat& s = described[index[j]];
      plan.splats[j] = s;
      std::copy_n(view.colors + s.source * channels, channels, plan.colors.data() + j * channels);
    }
  });

  const int bands = (view.height + kBandRows - 1) / kBandRows;
  plan.first_member.assign(bands + 1, 0);
  size_t rows = 0;
  for (Splat& s : plan.splats) {
    s.gradient_row = static_cast<uint32_t>(rows);
    for (int b = s.y0 / kBandRows; b * kBandRows < s.y1; ++b, ++rows) ++plan.first_member[b + 1];
  }
  plan.gradient_rows = rows;
  for (int b = 0; b < bands; ++b) plan.first_member[b + 1] += plan.first_member[b];
  plan.members.resize(rows);
  std::vector<size_t> next(plan.first_member.begin(), plan.first_member.end() - 1);
  for (size_t j = 0; j < n; ++j) {
    const Splat& s = plan.splats[j];
    for (int b = s.y0 / kBandRows; b * kBandRows < s.y1; ++b) {
      plan.members[next[b]++] = static_cast<uint32_t>(j);
    }
  }
  return plan;
}
