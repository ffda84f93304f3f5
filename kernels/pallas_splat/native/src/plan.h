// From projected Gaussians to depth-ordered splats and the list of those that touch each band.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "bands.h"
#include "scratch.h"
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
  Scratch<Splat> splats;  // Front to back.
  size_t splat_count = 0;
  Scratch<float> colors;             // Of the splats; empty where nobody needs them.
  Scratch<uint32_t> members;         // Indices of splats, band after band, front to back in each.
  std::vector<size_t> first_member;  // Where each band's members begin, and the end.
  std::vector<int> x0, x1;           // Columns that any member of each band touches.
  size_t gradient_rows = 0;

  int bands() const { return static_cast<int>(x0.size()); }

  Band band(const View& view, int index) const {
    Band band{};
    band.index = index;
    band.x0 = x0[index];
    band.x1 = x1[index];
    band.y0 = index * kBandRows;
    band.y1 = std::min(band.y0 + kBandRows, view.height);
    band.splats = splats.data();
    band.colors = colors.data();
    band.members = members.data() + first_member[index];
    band.member_count = first_member[index + 1] - first_member[index];
    band.channels = view.channels;
    band.stride = std::max(band.x1 - band.x0, 0) + kMaxLanes;
    band.width = view.width;
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

// Solves the ellipse for the pixels it covers in each row; in double, as the determinant of a thin
// ellipse is a difference of nearly equal numbers. What is no ellipse covers its whole box.
inline void set_cover(Splat& s, double xx, double xy, double yy) {
  const double level = 2. * std::log(s.opacity / kAlphaMin);
  const double reach = level / xx * (1. + 1e-5), bend = (xx * yy - xy * xy) / (xx * xx);
  const double slope = -xy / xx;
  constexpr double kLargest = 1e30;
  if (reach < kLargest && bend >= 0. && bend < kLargest && std::fabs(slope) < kLargest) {
    s.reach = static_cast<float>(reach);
    s.bend = static_cast<float>(bend);
    s.slope = static_cast<float>(slope);
  } else {
    s.reach = std::numeric_limits<float>::infinity();
    s.bend = s.slope = 0.f;
  }
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
  s.opacity = view.opacity[i];
  if (!std::isfinite(xx + xy + yy) || !(s.opacity >= kAlphaMin)) return false;
  s.a = -0.5f * kLog2E * xx;
  s.b = -kLog2E * xy;
  s.c = -0.5f * kLog2E * yy;
  s.source = static_cast<uint32_t>(i);
  set_cover(s, xx, xy, yy);
  return true;
}

// Stable radix sort of `index` by `key`, 11 bits per pass, as many passes as the keys differ in.
// Returns the sorted one of the two index arrays; all arrays have `n` entries.
inline uint32_t* sort_by_key(uint32_t* key, uint32_t* index, uint32_t* other_key,
                             uint32_t* other_index, size_t n) {
  constexpr uint32_t kBins = 2048;
  if (n == 0) return index;
  const auto [low, high] = std::minmax_element(key, key + n);
  const uint32_t base = *low, range = *high - *low;
  for (int shift = 0; shift < 32 && (range >> shift) > 0; shift += 11) {
    uint32_t start[kBins] = {}, total = 0;
    for (size_t i = 0; i < n; ++i) ++start[((key[i] - base) >> shift) % kBins];
    for (uint32_t& bin : start) {
      const uint32_t size = bin;
      bin = total;
      total += size;
    }
    for (size_t i = 0; i < n; ++i) {
      const uint32_t to = start[((key[i] - base) >> shift) % kBins]++;
      other_key[to] = key[i];
      other_index[to] = index[i];
    }
    std::swap(key, other_key);
    std::swap(index, other_index);
  }
  return index;
}

constexpr size_t kPiece = 4096;  // Gaussians per parallel job.

inline size_t pieces(size_t count) { return (count + kPiece - 1) / kPiece; }

// Calls job(piece, begin, end) for the pieces of [0, count), in parallel.
template <typename Job>
void for_pieces(Team& team, size_t count, const Job& job) {
  team.run(pieces(count), [&](size_t piece) {
    job(piece, piece * kPiece, std::min((piece + 1) * kPiece, count));
  });
}

// Lists the members of every band. Each piece of the splats counts its own, and fills its own part.
inline void list_members(Plan& plan, const View& view, Team& team) {
  const size_t n = plan.splat_count, bands = (view.height + kBandRows - 1) / kBandRows;
  struct Columns {
    int x0, x1;
  };
  const size_t parts = pieces(n);
  std::vector<size_t> counts(parts * bands);  // Per piece and band; then where the piece begins.
  std::vector<Columns> columns(parts * bands, Columns{view.width, 0});
  for_pieces(team, n, [&](size_t piece, size_t begin, size_t end) {
    size_t* count = &counts[piece * bands];
    Columns* column = &columns[piece * bands];
    for (size_t j = begin; j < end; ++j) {
      const Splat& s = plan.splats[j];
      for (int b = s.y0 / kBandRows; b * kBandRows < s.y1; ++b) {
        ++count[b];
        column[b] = {std::min(column[b].x0, s.x0), std::max(column[b].x1, s.x1)};
      }
    }
  });
  std::vector<size_t> first_row(parts);
  for (size_t piece = 0; piece < parts; ++piece) {
    first_row[piece] = plan.gradient_rows;
    for (size_t b = 0; b < bands; ++b) plan.gradient_rows += counts[piece * bands + b];
  }
  plan.first_member.assign(bands + 1, 0);
  plan.x0.assign(bands, view.width);
  plan.x1.assign(bands, 0);
  size_t total = 0;
  for (size_t b = 0; b < bands; ++b) {
    for (size_t piece = 0; piece < parts; ++piece) {
      total += std::exchange(counts[piece * bands + b], total);
      plan.x0[b] = std::min(plan.x0[b], columns[piece * bands + b].x0);
      plan.x1[b] = std::max(plan.x1[b], columns[piece * bands + b].x1);
    }
    plan.first_member[b + 1] = total;
  }
  plan.members = Scratch<uint32_t>(total);
  for_pieces(team, n, [&](size_t piece, size_t begin, size_t end) {
    size_t* next = &counts[piece * bands];
    size_t row = first_row[piece];
    for (size_t j = begin; j < end; ++j) {
      Splat& s = plan.splats[j];
      s.gradient_row = static_cast<uint32_t>(row);
      for (int b = s.y0 / kBandRows; b * kBandRows < s.y1; ++b, ++row) {
        plan.members[next[b]++] = static_cast<uint32_t>(j);
      }
    }
  });
}

inline Plan make_plan(const View& view, Team& team, bool with_colors = true) {
  // Each piece of the Gaussians is described on its own; the pieces are then closed up.
  Scratch<Splat> described(view.count);
  std::vector<size_t> counts(pieces(view.count) + 1);
  for_pieces(team, view.count, [&](size_t piece, size_t begin, size_t end) {
    size_t n = begin;
    for (size_t i = begin; i < end; ++i) n += describe(view, i, described[n]);
    counts[piece + 1] = n - begin;
  });
  for (size_t piece = 0; piece + 1 < counts.size(); ++piece) counts[piece + 1] += counts[piece];

  Plan plan;
  const size_t n = plan.splat_count = counts.back(), channels = view.channels;
  // Positive floats compare as their bits do, so the depth itself is the sorting key.
  Scratch<uint32_t> sorting(4 * n);
  uint32_t *key = sorting.data(), *index = key + n;
  for_pieces(team, view.count, [&](size_t piece, size_t begin, size_t) {
    size_t to = counts[piece];
    for (size_t i = begin; to < counts[piece + 1]; ++i, ++to) {
      std::memcpy(&key[to], &view.depth[described[i].source], sizeof *key);
      index[to] = static_cast<uint32_t>(i);
    }
  });
  index = sort_by_key(key, index, index + n, index + 2 * n, n);

  plan.splats = Scratch<Splat>(n);
  if (with_colors) plan.colors = Scratch<float>(n * channels);
  for_pieces(team, n, [&](size_t, size_t begin, size_t end) {
    for (size_t j = begin; j < end; ++j) {
      const Splat& s = plan.splats[j] = described[index[j]];
      if (!with_colors) continue;
      std::copy_n(view.colors + s.source * channels, channels, &plan.colors[j * channels]);
    }
  });
  list_members(plan, view, team);
  return plan;
}
