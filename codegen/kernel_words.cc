// In the order of the enumerations, so that a new member without words fails to compile.
#include "codegen/kernel_words.h"

namespace bitnet::codegen {

std::string_view formula_of(Op op) {
  switch (op) {
    case Op::kGemv:
      return "y[g][r] = sum over k of group g of W[r][k] * x[k], exact int32 (one group without K-groups)";
    case Op::kGemm:
      return "y[t][g][r] = sum over k of group g of W[r][k] * x[t][k], exact int32 (one group without K-groups)";
    case Op::kEpilogue:
      return "y[r] (+)= sum over g of acc[g][r] * (scale / s), in order";
    case Op::kQuantize:
      return "s = 127 / max(max |x|, 1e-5); q[i] = round_half_even(x[i] * s); q_sum = sum of q";
    case Op::kNorm:
      return "y[i] = x[i] / sqrt(mean of x^2 + eps) * gain[i]";
    case Op::kNormQuantize:
      return "quantize(norm(x))";
    case Op::kRope:
      return "pairs (a, b) of each row rotated: a' = a cos - b sin, b' = a sin + b cos";
    case Op::kAttention:
      return "y = softmax(q . K * scale) . V over pages of 256 positions, merged in order";
    case Op::kSoftmax:
      return "y[i] = exp(x[i] - max x) / sum";
    case Op::kRelu2Gate:
      return "y[i] = max(gate[i], 0)^2 * up[i]";
    case Op::kSiluGate:
      return "y[i] = gate[i] / (1 + exp(-gate[i])) * up[i]";
    case Op::kGeluGate:
      return "y[i] = g(gate[i]) * up[i], g as in gelu";
    case Op::kGelu:
      return "y[i] = g(x[i]) = x[i] / (1 + exp(-v)), v = 1.5957691 * (x[i] + 0.044715 * x[i]^3)";
    case Op::kLayerNorm:
      return "y[i] = (x[i] - mean) / sqrt(mean of (x - mean)^2 + eps) * gain[i] + bias[i]";
    case Op::kHead:
      return "y[r] = sum over k of W[r][k] * x[k], 16-lane float sum";
    case Op::kHeadScreen:
      return "y[r] = float(sum over k of W[r][k] * x[k]) * (row_scale[r] / x_scale), the sum exact";
  }
  return {};
}

std::string arguments_of(Op op) { return "bitnet_" + (is_gate(op) ? "gate" : std::string(to_string(op))) + "_args"; }

std::string_view layout_text(Layout layout) {
  switch (layout) {
    case Layout::kT2:
      return "t2: a line is 64 bytes and holds 16 rows x 16 k. Byte 4r+j, bits 2p+1..2p: code of row r,\n"
             "k = 16i + 4p + j of line i (r 0..15, j 0..3, p 0..3).\n";
    case Layout::kT5:
      return "t5: a line is 64 bytes and holds 16 rows x 20 k. Byte 4r+j holds five codes c_p of row r,\n"
             "k = 20i + 4p + j of line i (r 0..15, j 0..3, p 0..4): with n = c0 + 3 c1 + 9 c2 + 27 c3, v = n / 4,\n"
             "y = n mod 4, q = 2 - c4, u = v + 11 q (if u >= 32: u = u - 32, y = (y + 1) mod 4):\n"
             "byte = 64 y + 2 u + m, m = 0 for the smallest q that has this u, 1 for the other.\n";
    case Layout::kTl1:
      return "tl1: a line is 64 bytes and holds 16 rows x 16 k. Byte 16j+r of line i holds two indices c0 + 3 c1 of\n"
             "row r: bits 3..0 of k = 16i + j and 16i + 4 + j, bits 7..4 of k = 16i + 8 + j and 16i + 12 + j.\n";
    case Layout::kTl2:
      return "tl2: a line is 320 bytes and holds 16 rows x 96 k, in blocks b of 12 k with four triples j each, of\n"
             "k = 96i + 12b + 4p + j (p 0..2). With t = code - 1, v = t0 + 3 t1 + 9 t2: byte 64c+16j+r has |v| of\n"
             "block 2c in bits 3..0 and of block 2c+1 in bits 7..4 (c 0..3); byte 256+16j+r has in bit 7-b whether v\n"
             "of block b is negative.\n";
  }
  return {};
}

}  // namespace bitnet::codegen
