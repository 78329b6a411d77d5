// Stored weights back to numbers, one row at a time: what needs no speed, and the cases for which
// an instruction set has no packing routine.
#pragma once

#include <cstdint>

#include "reference/kernels/matmul.h"

namespace foretoken::reference::detail {

// Row `row`, columns [first, first + count) of a weight into out[0], out[step], ...; scales
// applied.
template <class Acc>
void decode_range(const WeightView& w, std::int64_t row, std::int64_t first, std::int64_t count,
                  Acc* out, std::int64_t step);
extern template void decode_range(const WeightView&, std::int64_t, std::int64_t, std::int64_t,
                                  double*, std::int64_t);
extern template void decode_range(const WeightView&, std::int64_t, std::int64_t, std::int64_t,
                                  float*, std::int64_t);

// Where the scales of row `row` start, and their size.
const std::uint8_t* scale_row(const WeightView& w, std::int64_t row);
std::int64_t scale_bytes(WeightView::Scale scale);

std::int64_t row_stride(const WeightView& w);  // elements, for stride 0 too
std::int64_t element_bits(WeightView::Format format);

}  // namespace foretoken::reference::detail
