// A window of the micrograph: its pixels, repeated where it hangs over the edge.
#pragma once

#include <algorithm>
#include <cmath>

#include "cryobox/crop.hpp"
#include "cryobox/image.hpp"
#include "cryobox/kernels.hpp"
#include "cryobox/rules.hpp"

namespace cryobox {

/// A box inside or across the border of an image.
class Window {
public:
    Window(const ImageView& image, Corner corner, Index box) noexcept
        : image_(image), top_(static_cast<Index>(corner.y)), left_(static_cast<Index>(corner.x)), box_(box),
          first_(std::max<Index>(left_, 0)), last_(std::min(left_ + box, image.width)),
          inside_(place(top_, box, image.height) == Placement::inside &&
                  place(left_, box, image.width) == Placement::inside) {}

    /// Sum of all pixels, repeated ones as often as they are repeated.
    [[nodiscard]] double sum(const Kernels& kernels) const noexcept {
        if (inside_) {
            return kernels.sum(part(top_, box_, first_, last_));
        }
        double total = 0;
        for (Index y = 0; y < box_; ++y) {
            const Index row = nearest_inside(top_ + y, image_.height);
            total += kernels.sum(part(row, 1, first_, last_));
            if (first_ > left_) {
                total += static_cast<double>(first_ - left_) * kernels.sum(part(row, 1, first_, first_ + 1));
            }
            if (last_ < left_ + box_) {
                total += static_cast<double>(left_ + box_ - last_) * kernels.sum(part(row, 1, last_ - 1, last_));
            }
        }
        return total;
    }

    /// The part of the pixels that are the largest number of their type, where a detector can count no further.
    [[nodiscard]] double saturated(const Kernels& kernels, float* row) const noexcept {
        const auto end = static_cast<float>(largest_count(image_.type));
        const float below = std::nextafter(end, 0.0F);
        Index count = 0;
        for (Index y = 0; end > 0 && y < box_; ++y) {
            read(kernels, y, 1, 0.0, row);
            for (Index x = kernels.find_beyond(row, 0, box_, -end, below); x < box_;
                 x = kernels.find_beyond(row, x + 1, box_, -end, below)) {
                ++count;
            }
        }
        return static_cast<double>(count) / (static_cast<double>(box_) * static_cast<double>(box_));
    }

    /// All pixels as they are, and their sum.
    double take(const Kernels& kernels, float* out) const noexcept {
        if (inside_) {
            return kernels.take(part(top_, box_, first_, last_), out, box_);
        }
        read(kernels, 0, box_, 0.0, out);
        return sum(kernels);
    }

    /// Rows `begin` ... `begin + count - 1` of the window, minus `level`, one after the other.
    void read(const Kernels& kernels, Index begin, Index count, double level, float* out) const noexcept {
        if (inside_) {
            kernels.convert(part(top_ + begin, count, first_, last_), level, out, box_);
            return;
        }
        for (Index y = 0; y < count; ++y) {
            float* row = out + y * box_;
            kernels.convert(part(nearest_inside(top_ + begin + y, image_.height), 1, first_, last_), level,
                            row + (first_ - left_), box_);
            std::fill(row, row + (first_ - left_), row[first_ - left_]);
            std::fill(row + (last_ - left_), row + box_, row[last_ - left_ - 1]);
        }
    }

    /// Rows `begin` and `begin + 1` likewise, as one complex row; `rows` is room for both.
    void read_pair(const Kernels& kernels, Index begin, double level, float* rows, Complex* both) const noexcept {
        if (inside_) {
            kernels.convert_pair(part(top_ + begin, 2, first_, last_), level, parts(both));
            return;
        }
        read(kernels, begin, 2, level, rows);
        kernels.interleave(rows, rows + box_, box_, parts(both));
    }

    /// What to ask for, in so many calls, so that the window is in the cache when it is read.
    [[nodiscard]] Ahead ahead(Index calls) const noexcept {
        return inside_ ? Ahead(part(top_, box_, first_, last_), calls) : Ahead();
    }

private:
    /// Rows of the image from `top` on, columns [begin, end); all of them inside it.
    [[nodiscard]] ImageView part(Index top, Index height, Index begin, Index end) const noexcept {
        ImageView view = image_;
        view.data += top * image_.row_stride + begin * bytes_per_pixel(image_.type);
        view.height = height;
        view.width = end - begin;
        return view;
    }

    const ImageView& image_;
    Index top_;
    Index left_;
    Index box_;
    Index first_; // columns of the image that the window touches: [first_, last_)
    Index last_;
    bool inside_;
};

} // namespace cryobox
