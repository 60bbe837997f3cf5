// Rows two by two, columns one by one; crop.hpp shows the order of the steps.
#include "spectrum.hpp"

#include "cryobox/crop.hpp"

namespace cryobox {

void crop_columns(const Plan& plan, const Window& window, double mean, Workspace& workspace, Ahead& ahead) noexcept {
    const Kernels& kernels = plan.kernels;
    float* rows = workspace.rows.data();
    Complex* before = workspace.before.data();
    Complex* after = workspace.after.data();
    const Index stride = column_stride(plan.box);
    for (Index y = 0; y < plan.box; y += 2) {
        window.read_pair(kernels, y, mean, rows, before);
        (*plan.forward)(before, after);
        kernels.split(parts(after), plan.box, plan.columns, parts(workspace.columns.data() + y), stride);
    }
    const double points = static_cast<double>(plan.box) * static_cast<double>(plan.box);
    const auto scale = static_cast<float>(0.5 / points); // `split` doubles
    for (Index k = 0; k < plan.columns; ++k) {
        ahead.fetch();
        (*plan.forward)(workspace.columns.data() + k * stride, after);
        for (const OutputPlan& output : plan.outputs) {
            const Index size = output.stack.size;
            if (output.backward != nullptr && k <= size / 2) {
                kernels.crop_column(parts(after), plan.box, parts(before), size, scale);
                ahead.fetch();
                (*output.backward)(before, workspace.cropped.data() + output.columns_begin + k * column_stride(size));
            }
        }
    }
}

void make_image(const Plan& plan, const OutputPlan& output, Workspace& workspace, Ahead& ahead) noexcept {
    float* image = workspace.image.data();
    const Index size = output.stack.size;
    for (Index y = 0; y < size; y += 2) {
        ahead.fetch();
        plan.kernels.join(parts(workspace.cropped.data() + output.columns_begin + y), column_stride(size), size,
                          parts(workspace.before.data()));
        (*output.backward)(workspace.before.data(), workspace.after.data());
        plan.kernels.separate(parts(workspace.after.data()), size, image + y * size, image + (y + 1) * size);
    }
}

} // namespace cryobox
