// The passes over pixels. This file is compiled once per instruction set, with CRYOBOX_BUILD its name; it calls no
// function of a header that is not inlined always, as the linker merges such functions between builds (an AVX2 copy
// would then run on a processor without AVX2). What stands in the headers of this folder is this file's alone.
#include "cryobox/kernels.hpp"

#include "crop.hpp"
#include "finish.hpp"
#include "measures.hpp"
#include "pixels.hpp"

#ifndef CRYOBOX_BUILD
#define CRYOBOX_BUILD baseline
#endif
#define CRYOBOX_TEXT_OF(name) #name
#define CRYOBOX_TEXT(name) CRYOBOX_TEXT_OF(name)

namespace cryobox::CRYOBOX_BUILD {
extern const Kernels kernels;
constinit const Kernels kernels = {.name = CRYOBOX_TEXT(CRYOBOX_BUILD),
                                   .sum = &sum,
                                   .take = &take,
                                   .convert = &convert,
                                   .convert_pair = &convert_pair,
                                   .interleave = &interleave,
                                   .separate = &separate,
                                   .split = &split,
                                   .weigh = &weigh,
                                   .turn = &turn,
                                   .crop_column = &crop_column,
                                   .join = &join,
                                   .root_mean_square = &root_mean_square,
                                   .find_beyond = &find_beyond,
                                   .background_sums = &background_sums,
                                   .subtract_level = &subtract_level,
                                   .residual_sums = &residual_sums,
                                   .measure_sums = &measure_sums,
                                   .finish = &finish};
} // namespace cryobox::CRYOBOX_BUILD
