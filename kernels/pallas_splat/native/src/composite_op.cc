// The operations of compositing that XLA calls. Leading dimensions beyond those of one view are
// batch dimensions.
#include <cstdint>

#include "compositing.h"
#include "team.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using Array = ffi::Buffer<ffi::F32>;
using Mask = ffi::Buffer<ffi::PRED>;
using Out = ffi::ResultBuffer<ffi::F32>;
using OutIndices = ffi::ResultBuffer<ffi::S32>;

namespace {

// The projected Gaussians and what to composite.
struct Inputs {
  Array x, y, conic_xx, conic_xy, conic_yy, opacity, depth, extent_x, extent_y;
  Mask visible;
  Array colors;

  View view(size_t batch_index, size_t width, size_t height) const {
    const auto shape = colors.dimensions();
    View v{};
    v.count = shape[shape.size() - 2];
    v.channels = static_cast<int>(shape.back());
    v.width = static_cast<int>(width);
    v.height = static_cast<int>(height);
    const size_t at = batch_index * v.count;
    v.x = x.typed_data() + at;
    v.y = y.typed_data() + at;
    v.conic_xx = conic_xx.typed_data() + at;
    v.conic_xy = conic_xy.typed_data() + at;
    v.conic_yy = conic_yy.typed_data() + at;
    v.opacity = opacity.typed_data() + at;
    v.depth = depth.typed_data() + at;
    v.extent_x = extent_x.typed_data() + at;
    v.extent_y = extent_y.typed_data() + at;
    v.visible = visible.typed_data() + at;
    v.colors = colors.typed_data() + at * v.channels;
    return v;
  }
};

// Calls job(view, team, index of the view, its first pixel) for all views of a batch. They run in
// parallel where there are enough of them; otherwise the bands of each do. What is computed is the
// same.
template <typename Job>
ffi::Error for_each_view(const Inputs& inputs, size_t pixels, size_t width, size_t height,
                         ffi::ThreadPool pool, int64_t threads, const Job& job) {
  const size_t views = pixels / (height * width);
  const auto run = [&](size_t i, Team& team) {
    job(inputs.view(i, width, height), team, i, i * height * width);
  };
  try {
    Team team(pool, threads);
    if (views >= static_cast<size_t>(team.size())) {
      team.run(views, [&](size_t i) {
        Team alone(pool, 1);
        run(i, alone);
      });
    } else {
      for (size_t i = 0; i < views; ++i) run(i, team);
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory while splatting");
  }
  return ffi::Error::Success();
}

// The same for a batch of images [height][width].
template <typename Images, typename Job>
ffi::Error for_each_view(const Inputs& inputs, const Images& images, ffi::ThreadPool pool,
                         int64_t threads, const Job& job) {
  const auto shape = images.dimensions();
  const size_t rank = shape.size();
  return for_each_view(inputs, images.element_count(), shape[rank - 1], shape[rank - 2], pool,
                       threads, job);
}

// XLA puts results and other temporary arrays into one block, which is new memory at every call
// where it is large. With large pages for all that lies between two results, the block is filled
// several times faster: the kernel then prepares few pages instead of many.
void prefer_large_pages_between(Out& a, Out& b) {
  const size_t begin_a = reinterpret_cast<size_t>(a->untyped_data());
  const size_t begin_b = reinterpret_cast<size_t>(b->untyped_data());
  const size_t begin = std::min(begin_a, begin_b);
  const size_t end = std::max(begin_a + a->size_bytes(), begin_b + b->size_bytes());
  constexpr size_t kOthers = 8;  // Farther apart, they are hardly of one block.
  if (end - begin > kOthers * (a->size_bytes() + b->size_bytes())) return;
  prefer_large_pages(reinterpret_cast<void*>(begin), end - begin);
}

#define SPLAT_INPUTS                                                                         \
  Array x, Array y, Array conic_xx, Array conic_xy, Array conic_yy, Array opacity, Array depth, \
      Array extent_x, Array extent_y, Mask visible, Array colors
#define SPLAT_GIVEN \
  Inputs { x, y, conic_xx, conic_xy, conic_yy, opacity, depth, extent_x, extent_y, visible, colors }

ffi::Error forward(ffi::ThreadPool pool, SPLAT_INPUTS, int64_t threads, Out values, Out alpha) {
  prefer_large_pages_between(values, alpha);
  const auto job = [&](const View& view, Team& team, size_t, size_t pixel) {
    forward_view(view, team, values->typed_data() + pixel * view.channels,
                 alpha->typed_data() + pixel);
  };
  return for_each_view(SPLAT_GIVEN, *alpha, pool, threads, job);
}

ffi::Error tangent(ffi::ThreadPool pool, SPLAT_INPUTS, Array d_x, Array d_y, Array d_conic_xx,
                   Array d_conic_xy, Array d_conic_yy, Array d_opacity, Array d_colors,
                   int64_t threads, Out d_values, Out d_alpha) {
  const auto job = [&](const View& view, Team& team, size_t i, size_t pixel) {
    const size_t at = i * view.count;
    const Shape<const float> tangents{
        d_x.typed_data() + at,        d_y.typed_data() + at,
        d_conic_xx.typed_data() + at, d_conic_xy.typed_data() + at,
        d_conic_yy.typed_data() + at, d_opacity.typed_data() + at,
        d_colors.typed_data() + at * view.channels};
    tangent_view(view, team, tangents, d_values->typed_data() + pixel * view.channels,
                 d_alpha->typed_data() + pixel);
  };
  return for_each_view(SPLAT_GIVEN, *d_alpha, pool, threads, job);
}

ffi::Error median(ffi::ThreadPool pool, SPLAT_INPUTS, int64_t threads, OutIndices ids) {
  const auto job = [&](const View& view, Team& team, size_t, size_t pixel) {
    median_view(view, team, ids->typed_data() + pixel);
  };
  return for_each_view(SPLAT_GIVEN, *ids, pool, threads, job);
}

ffi::Error backward(ffi::ThreadPool pool, SPLAT_INPUTS, Array values, Array alpha, Array d_values,
                    Array d_alpha, int64_t threads, Out d_x, Out d_y, Out d_conic_xx,
                    Out d_conic_xy, Out d_conic_yy, Out d_opacity, Out d_colors) {
  const auto job = [&](const View& view, Team& team, size_t i, size_t pixel) {
    const size_t at = i * view.count;
    const Cotangents cotangents{
        values.typed_data() + pixel * view.channels, alpha.typed_data() + pixel,
        d_values.typed_data() + pixel * view.channels, d_alpha.typed_data() + pixel};
    const Shape<float> gradients{
        d_x->typed_data() + at,        d_y->typed_data() + at,
        d_conic_xx->typed_data() + at, d_conic_xy->typed_data() + at,
        d_conic_yy->typed_data() + at, d_opacity->typed_data() + at,
        d_colors->typed_data() + at * view.channels};
    backward_view(view, team, cotangents, gradients);
  };
  return for_each_view(SPLAT_GIVEN, alpha, pool, threads, job);
}

auto bind_inputs() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // x ... conic_yy
      .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // opacity, depth, extents
      .Arg<Mask>()
      .Arg<Array>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(SplatForward, forward,
                              bind_inputs().Attr<int64_t>("threads").Ret<Array>().Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SplatTangent, tangent,
    bind_inputs()
        .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()
        .Arg<Array>().Arg<Array>()
        .Attr<int64_t>("threads")
        .Ret<Array>()
        .Ret<Array>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SplatMedian, median, bind_inputs().Attr<int64_t>("threads").Ret<ffi::Buffer<ffi::S32>>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    SplatBackward, backward,
    bind_inputs()
        .Arg<Array>().Arg<Array>().Arg<Array>().Arg<Array>()  // results and their cotangents
        .Attr<int64_t>("threads")
        .Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>().Ret<Array>()
        .Ret<Array>());
