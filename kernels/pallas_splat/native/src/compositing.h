// Compositing of one view and what derives from it. All arrays are the caller's: images are
// [height][width][channels] or [height][width].
#pragma once
#include "plan.h"

// What the gradient and the tangent have one number of per Gaussian and component.
template <typename Number>
struct Shape {
  Number *x, *y, *conic_xx, *conic_xy, *conic_yy, *opacity, *colors;
};

struct Cotangents {
  const float *values, *alpha;      // Results of the forward operation...
  const float *d_values, *d_alpha;  // ...and the loss's derivatives with respect to them.
};

void forward_view(const View& view, Team& team, float* values, float* alpha);
void median_view(const View& view, Team& team, int32_t* ids);
void tangent_view(const View& view, Team& team, const Shape<const float>& d, float* d_values,
                  float* d_alpha);
void backward_view(const View& view, Team& team, const Cotangents& at, const Shape<float>& to);
