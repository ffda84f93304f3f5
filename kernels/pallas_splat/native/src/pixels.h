// How the inner loops find the pixels of a splat: rows of its ellipse, alphas, channels.
//
// Read bands.h before including anything here.
#pragma once
#include "bands.h"

#include "vector.h"

namespace {

// The pixels [begin, end) that a splat covers in each row of a band, with a margin for rounding.
struct Spans {
  int32_t begin[kBandRows + kLanes], end[kBandRows + kLanes];
};

inline void find_spans(const Splat& s, int y0, int y1, Spans& spans) {
  const Floats low = broadcast(static_cast<float>(s.x0)), high = broadcast(static_cast<float>(s.x1));
  for (int y = y0; y < y1; y += kLanes) {
    const Floats dy = lane_numbers() + (static_cast<float>(y) + 0.5f - s.v);
    const Floats squared = s.reach - s.bend * dy * dy;
    const Floats half = root(larger(squared, Floats{}));
    const Floats middle = s.u + s.slope * dy;
    const Floats begin = smaller(larger(middle - half + 0.48f, low), high);
    const Floats end = smaller(larger(middle + half + 0.52f, low), high);
    store(spans.begin + (y - y0), to_ints(begin));
    store(spans.end + (y - y0), to_ints(squared >= 0.f ? end : low));
  }
}

// What visitors get: p points to the vector's first pixel in the first plane.
struct Place {
  float* p;
  int x, y;
  Floats dx;
  float dy;
  Floats power;  // log2 of the visibility
};

// Calls visit(place) for every vector of a splat's pixels in a band and end_row(dy) after each row.
// `row` is the distance of rows.
template <typename Visit, typename EndRow>
inline void visit_pixels(const Splat& s, const Band& band, size_t row, Visit visit,
                         EndRow end_row) {
  const int y0 = s.y0 > band.y0 ? s.y0 : band.y0, y1 = s.y1 < band.y1 ? s.y1 : band.y1;
  float* first = band.planes + (y0 - band.y0) * row - band.x0;
  if (s.x1 - s.x0 <= kLanes) {  // One vector per row, whatever the ellipse covers of it.
    const Floats dx = lane_numbers() + (static_cast<float>(s.x0) + 0.5f - s.u);
    const Floats a_dx2 = s.a * dx * dx, b_dx = s.b * dx;
    float dy = static_cast<float>(y0) + 0.5f - s.v;
    for (int y = y0; y < y1; ++y, first += row, dy += 1.f) {
      visit(Place{first + s.x0, s.x0, y, dx, dy, a_dx2 + dy * (b_dx + s.c * dy)});
      end_row(dy);
    }
    return;
  }
  Spans spans;
  find_spans(s, y0, y1, spans);
  for (int y = y0; y < y1; ++y, first += row) {
    const int begin = spans.begin[y - y0], end = spans.end[y - y0];
    if (begin >= end) continue;
    const float dy = static_cast<float>(y) + 0.5f - s.v;
    const float b_dy = s.b * dy, c_dy2 = s.c * dy * dy;
    Floats dx = lane_numbers() + (static_cast<float>(begin) + 0.5f - s.u);
    for (int x = begin; x < end; x += kLanes, dx += static_cast<float>(kLanes)) {
      visit(Place{first + x, x, y, dx, dy, (s.a * dx + b_dy) * dx + c_dy2});
    }
    end_row(dy);
  }
}

template <typename Visit>
inline void visit_pixels(const Splat& s, const Band& band, size_t row, Visit visit) {
  visit_pixels(s, band, row, visit, [](float) {});
}

// Alpha before the cap, and after the cap and the cut.
struct Alpha {
  Floats raw, used;
};

inline Alpha alpha_at(Floats opacity, Floats power) {
  power = larger(smaller(power, Floats{}), broadcast(-100.f));
  const Floats raw = opacity * exp2(power);
  const Floats capped = smaller(raw, broadcast(kAlphaMax));
  return {raw, capped >= kAlphaMin ? capped : Floats{}};
}

// Loops over channels of a wide band: whole vectors, then what is left.
template <typename Whole, typename Rest>
inline void for_channels(int channels, Whole whole, Rest rest) {
  int c = 0;
  for (; c + kLanes <= channels; c += kLanes) whole(c);
  for (; c < channels; ++c) rest(c);
}

inline float* wide_pixel(const Band& band, int x, int y, int lane) {
  const size_t pixel = static_cast<size_t>(y - band.y0) * band.width + (x + lane);
  return band.values + pixel * band.channels;
}

// Members are scattered over all splats: what comes a few of them later is fetched ahead of time.
inline void prefetch_member(const Band& band, size_t i) {
  constexpr size_t kAhead = 6;
  if (i + kAhead >= band.member_count) return;
  const size_t member = band.members[i + kAhead];
  __builtin_prefetch(band.splats + member);
  __builtin_prefetch(band.colors + member * band.channels);
}

}  // namespace
