#include "workloads/op.h"

#include <gtest/gtest.h>

#include "tests/workloads/test_support.h"
#include "workloads/count.h"
#include "workloads/precision.h"

namespace foretoken::workloads {
namespace {

std::int64_t flops(const WorkCount& w, PrecisionClass p) {
  return w.flops[static_cast<std::size_t>(p)];
}

TEST(PrecisionClass, FollowsComputeAndWeightFormats) {
  EXPECT_EQ(precision_class(Dtype::kFp8, Dtype::kFp4), PrecisionClass::kFp4Fp8);
  EXPECT_EQ(precision_class(Dtype::kInt8, Dtype::kInt4), PrecisionClass::kFp4Fp8);
  EXPECT_EQ(precision_class(Dtype::kFp8, Dtype::kFp8), PrecisionClass::kFp8);
  EXPECT_EQ(precision_class(Dtype::kInt8, Dtype::kInt8), PrecisionClass::kFp8);
  EXPECT_EQ(precision_class(Dtype::kFp4, Dtype::kFp4), PrecisionClass::kFp4);
  EXPECT_EQ(precision_class(Dtype::kBf16, Dtype::kFp4), PrecisionClass::kBf16);
  EXPECT_EQ(precision_class(Dtype::kTf32, Dtype::kFp32), PrecisionClass::kBf16);
}

TEST(CountGemm, IsTwoFlopsPerMultiplyAddAndEachMatrixOnce) {
  // 3 products [5, 256] x [256, 192]; FP8 blocks of 128: 2 x 2 scales each.
  const WorkCount w =
      count(Gemm{5, 192, 256, 3, Dtype::kFp8, Dtype::kFp8, Dtype::kFp8, Dtype::kBf16});
  EXPECT_EQ(flops(w, PrecisionClass::kFp8), 2 * 3 * 5 * 192 * 256);
  EXPECT_EQ(w.total_flops(), flops(w, PrecisionClass::kFp8));
  EXPECT_EQ(w.weight_bytes, 3 * (192 * 256 + 4));
  EXPECT_EQ(w.input_bytes, 3 * 5 * 256);
  EXPECT_EQ(w.output_bytes, 2 * 3 * 5 * 192);
  EXPECT_EQ(w.kv_read_bytes + w.kv_write_bytes + w.sent_bytes, 0);
}

TEST(CountGroupedGemm, ReadsOnlyTheExpertsThatHaveRows) {
  const WorkCount w =
      count(GroupedGemm{40, 8, 3, 6144, 7168, Dtype::kFp8, Dtype::kFp4, Dtype::kFp8, Dtype::kBf16});
  EXPECT_EQ(flops(w, PrecisionClass::kFp4Fp8), std::int64_t{2} * 40 * 6144 * 7168);
  EXPECT_EQ(w.weight_bytes, std::int64_t{3} * 6144 * 7168 * 17 / 32);
  EXPECT_EQ(w.input_bytes, 40 * 7168);
  EXPECT_EQ(w.output_bytes, 2 * 40 * 6144);
}

TEST(CountGroupedGemm, CostsThePublishedFlopsPerTokenExpertPair) {
  const auto pair = [](std::int64_t h, std::int64_t inner) {
    const GroupedGemm up{1,           1,           1,           2 * inner,   h,
                         Dtype::kFp8, Dtype::kFp4, Dtype::kFp8, Dtype::kBf16};
    const GroupedGemm down{1, 1, 1, h, inner, Dtype::kFp8, Dtype::kFp4, Dtype::kFp8, Dtype::kBf16};
    return count(up).total_flops() + count(down).total_flops();
  };
  EXPECT_EQ(pair(7168, 3072), 132'120'576);  // 132.12 MFLOP
  EXPECT_EQ(pair(4096, 2048), 50'331'648);   // 50.33 MFLOP
}

TEST(CountDispatchAndCombine, MoveThreeBytesPerChannelAndTheScales) {
  const auto sent = [](std::int64_t h) {
    return count(Dispatch{1, 1, 1, h, 8, Dtype::kFp8}).sent_bytes +
           count(Combine{1, 1, 1, h, 8, Dtype::kBf16}).sent_bytes;
  };
  EXPECT_EQ(sent(7168), 21'504 + 7168 / 32);
  EXPECT_EQ(sent(4096), 12'288 + 4096 / 32);
  const WorkCount d = count(Dispatch{10, 60, 45, 4096, 4, Dtype::kFp8});
  EXPECT_EQ(d.input_bytes, 10 * (4096 + 128));
  EXPECT_EQ(d.output_bytes, 60 * (4096 + 128));
  EXPECT_EQ(d.sent_bytes, 45 * (4096 + 128));
  EXPECT_EQ(count(Dispatch{10, 60, 45, 4096, 4, Dtype::kBf16}).sent_bytes, 45 * 8192);
  const WorkCount c = count(Combine{10, 60, 45, 4096, 4, Dtype::kBf16});
  EXPECT_EQ(c.input_bytes, 60 * 8192);
  EXPECT_EQ(c.output_bytes, 10 * 8192);
  EXPECT_EQ(c.sent_bytes, 45 * 8192);
  EXPECT_EQ(c.total_flops() + d.total_flops(), 0);
}

TEST(CountAttention, MultipliesEveryKeyTwicePerHead) {
  // Pro, a CSA layer at 1M: 128 window tokens and 1,024 entries (facts, section 12).
  const WorkCount w = count(Attention{1, 128, 512, 512, 1152, 1152 * 584, 9'999'999, Dtype::kBf16,
                                      Dtype::kBf16, true, true});
  EXPECT_EQ(flops(w, PrecisionClass::kBf16), 301'989'888);
  EXPECT_EQ(w.kv_read_bytes, 1152 * 584);
  EXPECT_EQ(w.special_ops, 128 * 1152);  // one exp per head and key
  EXPECT_EQ(w.input_bytes, 2 * 128 * 512);
  EXPECT_EQ(w.output_bytes, 2 * 128 * 512);
  EXPECT_EQ(w.weight_bytes, 0);
  EXPECT_EQ(count(Attention{9, 128, 4, 4, 9, 0, 0, Dtype::kBf16, Dtype::kBf16, false, true, true})
                .weight_bytes,
            4 * 128);
  // V3.2 in absorbed form: 576-wide scores, 512-wide values.
  EXPECT_EQ(
      count(Attention{1, 128, 576, 512, 2048, 0, 0, Dtype::kBf16, Dtype::kBf16}).total_flops(),
      2 * 128 * (576 + 512) * 2048);
}

TEST(CountIndexLogits, ScoresEveryEntryWithEveryHead) {
  const WorkCount w = count(IndexLogits{1, 64, 128, 262'144, 262'144 * 68, Dtype::kFp4});
  EXPECT_EQ(flops(w, PrecisionClass::kFp4), 4'294'967'296);
  EXPECT_EQ(w.kv_read_bytes, 262'144 * 68);
  EXPECT_EQ(w.output_bytes, 2 * 262'144);
  EXPECT_EQ(w.input_bytes, 64 * 64 + 64 * 4);
}

TEST(CountTopK, WritesOneIndexPerSelectedEntryAndCountsNoFlops) {
  const WorkCount w = count(TopK{3, 1000, 512});
  EXPECT_EQ(w.total_flops(), 0);
  EXPECT_EQ(w.output_bytes, 3 * 512 * 4);
  EXPECT_GE(w.input_bytes, 2 * 1000);
}

TEST(CountCompress, PoolsOnlyWhatIsEmitted) {
  const WorkCount idle = count(Compress{1, 0, 8, 512, 1024, 584, 4096});
  const WorkCount busy = count(Compress{1, 1, 8, 512, 1024, 584, 4096});
  EXPECT_EQ(idle.total_flops() + busy.total_flops(), 0);
  EXPECT_EQ(idle.special_ops, 0);
  EXPECT_EQ(busy.special_ops, 8 * 512);
  EXPECT_EQ(idle.kv_write_bytes, 0);
  EXPECT_EQ(busy.kv_write_bytes, 584);
  EXPECT_EQ(busy.weight_bytes, 4 * 4096);
}

TEST(CountHyperConnection, MixesBothSublayersForThePublishedFlops) {
  const std::int64_t d = 7168;
  const HyperConnection pre{HyperPhase::kPre, 1, 4, d, 24, 20, Dtype::kTf32};
  EXPECT_EQ(2 * count(pre).total_flops(), 2 * 2 * 24 * 4 * d);
  EXPECT_EQ(count(pre).weight_bytes, 4 * (24 * 4 * d + 27));
  const HyperConnection post{HyperPhase::kPost, 1, 4, d, 24, 0, Dtype::kTf32};
  EXPECT_EQ(count(post).total_flops(), 0);
  EXPECT_EQ(count(post).vector_ops, 40 * d);  // facts, section 9: the update
  EXPECT_EQ(count(post).weight_bytes, 0);
  const HyperConnection head{HyperPhase::kHead, 1, 4, d, 4, 0, Dtype::kTf32};
  EXPECT_EQ(count(head).total_flops(), 0);
  EXPECT_EQ(count(head).weight_bytes, 4 * (16 * d + 5));
}

TEST(CountVectorOp, ReadsTwoOperandsWhereTheKindHasTwo) {
  const WorkCount norm =
      count(VectorOp{VectorKind::kNorm, 3, 512, Dtype::kBf16, Dtype::kFp8, 0, 512});
  EXPECT_EQ(norm.input_bytes, 2 * 3 * 512);
  EXPECT_EQ(norm.output_bytes, 3 * 512);
  EXPECT_EQ(norm.weight_bytes, 2 * 512);
  const WorkCount swiglu = count(VectorOp{VectorKind::kSwiglu, 3, 512, Dtype::kBf16, Dtype::kFp8});
  EXPECT_EQ(swiglu.input_bytes, 2 * 2 * 3 * 512);
  EXPECT_EQ(swiglu.output_bytes, 3 * 512);
  const WorkCount add = count(VectorOp{VectorKind::kResidual, 3, 512, Dtype::kBf16, Dtype::kBf16});
  EXPECT_EQ(add.input_bytes, 2 * 2 * 3 * 512);
  EXPECT_EQ(add.vector_ops, 3 * 512);
  const WorkCount hadamard =
      count(VectorOp{VectorKind::kHadamard, 1, 128, Dtype::kBf16, Dtype::kBf16});
  EXPECT_EQ(hadamard.vector_ops, (7 + 1) * 128);
  const WorkCount write =
      count(VectorOp{VectorKind::kQuantise, 2, 512, Dtype::kBf16, Dtype::kBf16, 2 * 584});
  EXPECT_EQ(write.kv_write_bytes, 1168);
  EXPECT_EQ(write.output_bytes, 0);
  const WorkCount sample =
      count(VectorOp{VectorKind::kSample, 2, 1000, Dtype::kFp32, Dtype::kInt32});
  EXPECT_EQ(sample.input_bytes, 8000);
  EXPECT_EQ(sample.output_bytes, 8);
}

TEST(CountRoute, ReadsTheTokenTableInsteadOfTheBiasWhenHashed) {
  EXPECT_EQ(count(Route{5, 384, 6, false}).weight_bytes, 4 * 384);
  EXPECT_EQ(count(Route{5, 384, 6, true}).weight_bytes, 5 * 6 * 8);
  EXPECT_EQ(count(Route{5, 384, 6, false}).output_bytes, 5 * 6 * 8);
  EXPECT_LT(count(Route{5, 384, 6, true}).vector_ops, count(Route{5, 384, 6, false}).vector_ops);
}

TEST(CountCollective, SendsWhatABandwidthOptimalAlgorithmSends) {
  const auto sent = [](CollectiveKind kind, std::int64_t ranks) {
    return count(Collective{kind, 8000, ranks}).sent_bytes;
  };
  EXPECT_EQ(sent(CollectiveKind::kAllReduce, 8), 2 * 8000 * 7 / 8);
  EXPECT_EQ(sent(CollectiveKind::kAllReduce, 1), 0);
  EXPECT_EQ(sent(CollectiveKind::kAllGather, 8), 8000 * 7);
  EXPECT_EQ(sent(CollectiveKind::kReduceScatter, 8), 8000 * 7 / 8);
  EXPECT_EQ(sent(CollectiveKind::kSendRecv, 2), 8000);
}

TEST(CountLookup, ReadsWholeRowsWithTheirScales) {
  const WorkCount w = count(Lookup{3, 24, 256, Dtype::kFp8, 8, true});
  EXPECT_EQ(w.weight_bytes, 3 * 24 * 264);
  EXPECT_EQ(w.output_bytes, 2 * 3 * 24 * 256);
}

TEST(CountOp, VisitsTheOverloadOfTheHeldKind) {
  const Gemm gemm{5, 192, 256, 1, Dtype::kFp8, Dtype::kFp8, Dtype::kFp8, Dtype::kBf16};
  EXPECT_EQ(count_op(Op{gemm}), count(gemm));
  EXPECT_EQ(op_kind(Op{gemm}), "gemm");
  EXPECT_EQ(op_kind(Op{TopK{}}), "top_k");
  EXPECT_EQ(op_kind(Op{Lookup{}}), "lookup");
}

TEST(WorkCount, AddsFieldByField) {
  const WorkCount a =
      count(Gemm{5, 192, 256, 1, Dtype::kFp8, Dtype::kFp8, Dtype::kFp8, Dtype::kBf16});
  WorkCount sum = a;
  sum += count(Dispatch{1, 1, 1, 64, 8, Dtype::kFp8});
  sum += count(Attention{1, 2, 4, 4, 3, 7, 7, Dtype::kBf16, Dtype::kBf16, false, true, true});
  sum += count(VectorOp{VectorKind::kQuantise, 1, 8, Dtype::kBf16, Dtype::kBf16, 11});
  EXPECT_EQ(sum.flops[1], a.flops[1]);
  EXPECT_EQ(sum.flops[0], 2 * 2 * 8 * 3);
  EXPECT_EQ(sum.sent_bytes, 66);
  EXPECT_EQ(sum.kv_read_bytes, 7);
  EXPECT_EQ(sum.kv_write_bytes, 11);
  EXPECT_EQ(sum.weight_bytes, a.weight_bytes + 8);  // two sink logits
}

}  // namespace
}  // namespace foretoken::workloads
