#include "analysis/validation/measurement_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/sim/base/test_support.h"

namespace foretoken::analysis::validation {
namespace {

using testing::HasSubstr;

std::vector<Measurement> read(const std::string& text) {
  const base::CsvTable table = base::parse_csv("t.csv", text);
  return read_measurements(table, recognise(table));
}

// The only measurement of a table with one row.
template <class Kind>
Kind only(const std::string& text) {
  const std::vector<Measurement> all = read(text);
  EXPECT_EQ(all.size(), 1u);
  if (const auto* skipped = std::get_if<SkippedCase>(&all.front().measured)) {
    if constexpr (!std::is_same_v<Kind, SkippedCase>) ADD_FAILURE() << skipped->reason;
  }
  return std::get<Kind>(all.front().measured);
}

std::string reason(const std::string& text) { return only<SkippedCase>(text).reason; }

std::string error_of(const std::string& text) {
  return base::config_error([&] { read(text); });
}

const std::string kDense =
    "system,device,framework,kernel_source,dtype,shape_role,m,n,k,latency_us\n";
const std::string kDecode =
    "system,framework,kernel_source,model,attention_kind,compress_ratio,tp_size,local_heads,"
    "gemm_weight_dtype,kv_cache_dtype,batch_size,q_tokens_per_seq,kv_history_tokens,latency_us\n";
const std::string kSparse =
    "system,framework,op,kernel_source,model,num_heads,compress_ratio,dtype,batch_size,"
    "q_tokens_per_seq,kv_history_tokens,topk_score_mode,latency_us\n";
const std::string kMhc =
    "system,framework,kernel_source,op,num_sites,hc_mult,hidden,sinkhorn_iters,num_tokens,"
    "latency_us\n";
const std::string kAscend = "platform,operator,shape,batch_or_tokens,seq_len,value,unit,note\n";
const std::string kSurvey = "gpu,kernel,groups,m_or_m_per_group,n,k,latency_us,tflops,hbm_GBps\n";
const std::string kCann =
    "platform,model,phase,chips,parallelism,precision,global_batch,seq_len,mtp_draft_tokens,"
    "mtp_accepted_draft_tokens_avg,tpot_ms,tokens_per_s_per_chip,note\n";
const std::string kPools =
    "system,model,precision,stack,prefill_pool,decode_pool,speculative,isl,osl,concurrency,"
    "total_tok_per_s_per_gpu,tok_per_s_per_user,tpot_ms\n";
const std::string kH20 =
    "table,phase,gpu,nodes,num_gpus,profile,weights_precision,speculation,input_len_label,"
    "batch_or_conc_per_dp_rank,metric,value,unit,note\n";

TEST(MeasurementTable, EveryKindIsKnownByTheColumnsItNeeds) {
  for (int i = 0; i <= static_cast<int>(TableKind::kEngineSurvey); ++i) {
    const auto kind = static_cast<TableKind>(i);
    base::CsvTable table;
    for (const std::string_view column : columns_of(kind)) table.columns.emplace_back(column);
    table.columns.emplace_back("source");
    EXPECT_EQ(recognise(table), kind) << to_string(kind);
  }
}

TEST(MeasurementTable, AHeaderThatLacksAColumnSaysWhichTableItAlmostIs) {
  EXPECT_EQ(
      error_of("# note\nsystem,dtype,m,n,latency_us\n"),
      "t.csv:2:1: error: no known table of measurements; for 'dense linear layers' the column "
      "'k' is missing");
  EXPECT_EQ(error_of("a,b\n"),
            "t.csv:1:1: error: no known table of measurements has these columns");
}

TEST(MeasurementTable, ReadsDenseProducts) {
  const auto all =
      read(kDense + "b200_sxm,NVIDIA B200,sglang-0.5.14,torch,bfloat16,x,1,256,4096,4.25\n");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].row, 1);
  EXPECT_EQ(all[0].line, 2);
  EXPECT_EQ(all[0].value, 4.25);
  EXPECT_EQ(all[0].unit.name, "us");
  EXPECT_EQ(all[0].unit.seconds, 1e-6);
  const auto& c = std::get<DenseGemmCase>(all[0].measured);
  EXPECT_EQ(c.origin.system, "b200_sxm");
  EXPECT_EQ(c.origin.stack(), "sglang-0.5.14 torch");
  EXPECT_EQ(c.dtype, "bf16");
  EXPECT_EQ(c.m, 1);
  EXPECT_EQ(c.n, 256);
  EXPECT_EQ(c.k, 4096);
  EXPECT_EQ(class_of(all[0].measured), "dense_gemm/bf16");
}

TEST(MeasurementTable, ReadsProductsOfASurveyAndTheirTimeFromTheRate) {
  const auto dense = only<DenseGemmCase>(
      kSurvey + "H800 SXM5,DeepGEMM FP8 Normal GEMMs for dense models,1,64,2112,7168,,206,1688\n");
  EXPECT_EQ(dense.origin.system, "h800_sxm");
  EXPECT_EQ(dense.dtype, "fp8_block");
  const auto all =
      read(kSurvey + "H800 SXM5,FP8 Grouped GEMMs (masked layout),2,1000,1000,1000,,4,\n");
  EXPECT_DOUBLE_EQ(all[0].value, 1000.0);  // 4 GFLOP at 4 TFLOP/s, in us
  const auto& grouped = std::get<GroupedGemmCase>(all[0].measured);
  EXPECT_EQ(grouped.groups, 2);
  EXPECT_EQ(grouped.rows_per_group, 1000);
  EXPECT_EQ(reason(kSurvey + "H800 SXM5,FP8 Grouped GEMMs,2,8,8,8,,,\n"),
            "no measured time is given");
}

TEST(MeasurementTable, ReadsProductsOfTheControl) {
  const auto c = only<DenseGemmCase>(
      "gpu,op,m,n_or_k,k_or_n,latency_ms,tflops\nA100 80GB,matmul fp16,64,128,256,0.5,1\n");
  EXPECT_EQ(c.origin.system, "a100_sxm");
  EXPECT_EQ(c.dtype, "fp16");
  EXPECT_EQ(c.k, 256);
}

TEST(MeasurementTable, ReadsRoutedExperts) {
  const auto c = only<RoutedExpertsCase>(
      "system,framework,kernel_source,model,moe_dtype,moe_tp_size,moe_ep_size,"
      "routing_distribution,num_tokens_into_moe,hidden,moe_intermediate,num_experts,topk,"
      "latency_us\n"
      "gb300,vllm,k,DeepSeek-V3/R1 (control),w4a8_mxfp4_mxfp8,1,32,power_law_1.2,16384,7168,3072,"
      "384,6,10\n");
  EXPECT_EQ(c.origin.system, "gb300");
  EXPECT_EQ(c.model, "deepseek-v3/r1 (control)");
  EXPECT_EQ(c.routing, "power_law_1.2");
  EXPECT_EQ(c.ep, 32);
  EXPECT_EQ(c.experts, 384);
  EXPECT_EQ(class_of(c), "grouped_gemm/w4a8_mxfp4_mxfp8");
}

TEST(MeasurementTable, ReadsAttentionModules) {
  const auto decode = only<AttentionModuleCase>(
      kDecode +
      "h200_sxm,v,k,DeepSeek-V4-Pro,HCA,128,8,16,fp8_block,fp8_e4m3,512,1,1.04858e+06,9\n");
  EXPECT_EQ(decode.model, "deepseek-v4-pro");
  EXPECT_EQ(decode.kind, workloads::AttentionKind::kHca);
  EXPECT_EQ(decode.kv_dtype, "fp8");
  EXPECT_EQ(decode.history, 1048580);
  EXPECT_EQ(decode.tp, 8);
  EXPECT_EQ(class_of(decode), "hca_decode_module");
  const auto prefill = only<AttentionModuleCase>(
      "system,model,attention_kind,local_heads,batch_size,new_tokens_per_seq,"
      "cached_prefix_tokens,latency_us\nh200_sxm,DeepSeek-V4-Flash,CSA,64,4,128,1e+06,9\n");
  EXPECT_EQ(prefill.phase, workloads::Phase::kPrefill);
  EXPECT_EQ(prefill.new_tokens, 128);
  EXPECT_EQ(prefill.history, 1000000);
  EXPECT_EQ(prefill.ratio, 4);
  EXPECT_EQ(class_of(prefill), "csa_prefill_module");
  EXPECT_EQ(reason(kDecode + "h200_sxm,v,k,DeepSeek-V4-Pro,MLA,1,1,128,,,1,1,1,9\n"),
            "attention kind 'MLA' is not CSA or HCA");
}

TEST(MeasurementTable, ReadsKernelsOfSparseAttentionByTheirOp) {
  const std::string shape = ",DeepSeek-V4-Flash,64,4,fp8_e4m3,8,4,131072,";
  const auto logits =
      only<IndexLogitsCase>(kSparse + "h200_sxm,v,dsv4_paged_mqa_logits_module,k" + shape + ",9\n");
  EXPECT_EQ(logits.new_tokens, 4);
  EXPECT_EQ(logits.history, 131072);
  EXPECT_EQ(logits.dtype, "fp8");
  const auto top =
      only<TopKCase>(kSparse + "h200_sxm,v,dsv4_csa_topk_calib,k" + shape + "v2_top_last,9\n");
  EXPECT_EQ(top.score_mode, "v2_top_last");
  EXPECT_EQ(class_of(top), "top_k");
  const auto attention = only<SparseAttentionCase>(
      kSparse + "h200_sxm,v,dsv4_flash_hca_attn_module,k" + shape + ",9\n");
  EXPECT_EQ(attention.heads, 64);
  EXPECT_EQ(class_of(attention), "sparse_attention_kernel");
  EXPECT_EQ(reason(kSparse + "h200_sxm,v,other,k" + shape + ",9\n"), "op 'other' is not known");
}

TEST(MeasurementTable, ReadsHyperConnections) {
  const auto c = only<HyperConnectionCase>(kMhc + "b200_sxm,v,k,pre,2.0,4,7168,20.0,524288,9\n");
  EXPECT_EQ(c.sites, 2);
  EXPECT_EQ(c.sinkhorn_iterations, 20);
  EXPECT_EQ(c.tokens, 524288);
  EXPECT_EQ(class_of(c), "mhc_pre");
  const auto post = only<HyperConnectionCase>(kMhc + "b200_sxm,v,k,post,,4,7168,,1,9\n");
  EXPECT_EQ(post.sites, 1);
  EXPECT_EQ(class_of(post), "mhc_post");
}

TEST(MeasurementTable, ReadsAscendKernelsFromTheirShapes) {
  const auto pre = only<HyperConnectionCase>(
      kAscend +
      "Atlas A3,\"mHC HcPre (AscendC, decode path)\",b*s=16 hc=4 d=4096,16.0,,32.8,us,\n");
  EXPECT_EQ(pre.origin.system, "ascend_910c");
  EXPECT_EQ(pre.tokens, 16);
  EXPECT_EQ(pre.sites, 1);
  EXPECT_EQ(pre.sinkhorn_iterations, 20);
  const auto prolog = only<HyperConnectionCase>(
      kAscend + "Atlas A3,V4-Flash PyPTO hc_pre,B=64 S1=2 S2= D= cmp_ratio=,,,20,us,\n");
  EXPECT_EQ(prolog.tokens, 128);
  const auto kernel = only<AscendKernelCase>(
      kAscend +
      "Atlas A3,V4-Flash PyPTO compressor_c4a,B=64 S1=2 S2= D=512 cmp_ratio=4 coff=2 "
      "start_pos=8191,,,20,us,\n");
  EXPECT_EQ(kernel.op, "compressor_c4a");
  EXPECT_EQ(kernel.cached, 8191);
  EXPECT_EQ(kernel.width, 512);
  EXPECT_EQ(kernel.ratio, 4);
  const auto traffic = only<ExpertTrafficCase>(
      kAscend + "A3 384 SuperPOD,DeepEP-Ascend low-latency combine latency,EP16,128.0,,135,us,\n");
  EXPECT_TRUE(traffic.combine);
  EXPECT_TRUE(traffic.low_latency);
  EXPECT_EQ(traffic.ranks, 16);
  const auto normal = only<ExpertTrafficCase>(
      kAscend + "A3 384 SuperPOD,DeepEP-Ascend normal dispatch,EP128,4096.0,,146,GB/s,\n");
  EXPECT_FALSE(normal.combine);
  EXPECT_FALSE(normal.low_latency);
  EXPECT_EQ(normal.dtype, "int8");
  EXPECT_EQ(normal.ranks, 128);
}

TEST(MeasurementTable, AscendRowsThatSayTooLittleAreSkippedByName) {
  const auto kernel =
      only<SkippedCase>(kAscend + "Atlas A3,V4-Flash PyPTO hc_pre,B=64 S1=2,,,146,GB/s,\n");
  EXPECT_EQ(kernel.reason, "measured in GB/s; only times are compared");
  EXPECT_EQ(kernel.class_name, "mhc_pre");
  EXPECT_EQ(reason(kAscend + "Atlas A3,V4 hc_post eager (unfused),typical shape,,,20,us,\n"),
            "shape 'typical shape' gives no number of tokens");
  EXPECT_THAT(reason(kAscend + "Atlas A3,LongCat-Flash FA,24 cube + 48 vector cores,,,20,us,\n"),
              HasSubstr("is not of a model here"));
  EXPECT_THAT(
      reason(kAscend + "Atlas A3,V4-Flash PyPTO hc_pre,B=999999999999 S1=999999999999,,,1,us,\n"),
      HasSubstr("is beyond 2^40"));
}

TEST(MeasurementTable, ReadsCollectivesAndExpertTraffic) {
  const auto reduce = only<CollectiveCase>(
      "system,op,dtype,num_gpus,message_size_elements,latency_us,nccl_version\n"
      "gb200,all_reduce,half,8,2.68435e+08,100,2.27\n");
  EXPECT_EQ(reduce.ranks, 8);
  EXPECT_EQ(reduce.elements, 268435000);
  const auto both = read(
      "system,framework,kernel_source,node_num,hidden,tokens_per_rank,topk,num_experts,"
      "dispatch_us,dispatch_GBps,combine_us,combine_GBps\n"
      "h200_sxm,s,deepep,2,7168,128,8,256,20,1,30,2\n");
  ASSERT_EQ(both.size(), 2u);
  EXPECT_EQ(both[0].row, 1);
  EXPECT_EQ(both[1].row, 1);
  EXPECT_EQ(both[0].value, 20.0);
  EXPECT_EQ(both[1].value, 30.0);
  EXPECT_FALSE(std::get<ExpertTrafficCase>(both[0].measured).combine);
  EXPECT_TRUE(std::get<ExpertTrafficCase>(both[1].measured).combine);
  EXPECT_EQ(std::get<ExpertTrafficCase>(both[1].measured).ranks, 16);
  EXPECT_EQ(std::get<ExpertTrafficCase>(both[1].measured).nodes, 2);
  const std::string survey =
      "gpu,kernel,topology,tokens_per_rank,hidden,topk,dtype,sms,latency_us,bandwidth_GBps\n";
  EXPECT_EQ(
      only<ExpertTrafficCase>(survey + "SM90,DeepEP V2 dispatch,EP 8x4,128,7168,8,FP8,24,77,\n")
          .ranks,
      32);
  const auto rate = read(survey + "H800,DeepEP V1 normal combine,EP8,4096,7168,8,BF16,,,158\n");
  EXPECT_EQ(rate[0].value, 158.0);
  EXPECT_EQ(rate[0].unit.name, kBandwidth);
  EXPECT_FALSE(std::get<ExpertTrafficCase>(rate[0].measured).low_latency);
  EXPECT_THAT(reason(survey + "H800,DeepEP V1 normal combine,ring,4096,7168,8,BF16,,7,158\n"),
              HasSubstr("topology 'ring'"));
}

TEST(MeasurementTable, ReadsFusedExpertLayers) {
  const auto c = only<MegaMoeCase>(
      "system,model,ep_size,tokens_per_rank,hidden,moe_intermediate,topk,num_experts,"
      "routing_distribution,moe_quant_mode,latency_us\n"
      "gb200,DeepSeek-V4-Pro,32,512,7168,3072,6,384,power_law_1.2,w4a8_mxfp4_mxfp8,100\n");
  EXPECT_EQ(c.ep, 32);
  EXPECT_EQ(c.experts, 384);
  EXPECT_TRUE(c.fused);
  const auto baseline = only<MegaMoeCase>(
      "gpu,gpus,ep,model,implementation,precision,tokens_per_rank,latency_us\n"
      "H200,8.0,8.0,DeepSeek-V4-Flash,DeepEP low-latency baseline,FP8 x FP8,8,225.0\n");
  EXPECT_EQ(baseline.ep, 8);
  EXPECT_FALSE(baseline.fused);
  EXPECT_EQ(class_of(baseline), "megamoe (not fused)");
}

TEST(MeasurementTable, ReadsEnginesAsStepsOfSystemsHere) {
  const auto cann = only<EngineStepCase>(
      kCann +
      "Ascend 950DT,DeepSeek-V4-Flash,decode,16,\"attention DP, MoE EP (all chips)\","
      "Hybrid MXFP8-MXFP4,256,8192,3,1.44,8.78,1821.75,\n");
  EXPECT_EQ(cann.step.system, "atlas_850e");
  EXPECT_EQ(cann.step.stack, "cann");
  EXPECT_EQ(cann.step.plan, "dp=16,ep=16,overlap=none,routing=balanced");
  EXPECT_EQ(cann.step.draft_tokens, 3);
  EXPECT_DOUBLE_EQ(cann.tokens_per_step, 2.44);
  // 3148 tok/s of 16 GPUs, a ninth of them output, at 41.23 ms: 231 sequences.
  const auto pools = only<EngineStepCase>(
      kPools +
      "GB200 NVL72,DeepSeek-V4-Pro,FP4,Dynamo,8 GPU TP8,8 GPU EP8,none,8192,1024,256,"
      "3148.0,24.42,41.23\n");
  EXPECT_EQ(pools.step.system, "gb200_nvl72");
  EXPECT_EQ(pools.step.batch, 231);
  EXPECT_EQ(pools.step.context, 8704);
  EXPECT_EQ(pools.step.plan, "dp=8,ep=8");
  EXPECT_EQ(pools.step.stack, "serving");
  // 32 GPUs as four engines of eight.
  const auto engines = only<EngineStepCase>(
      kPools +
      "GB200 NVL72,DeepSeek-V4-Pro,FP4,Dynamo,8 GPU TP8,32 GPU EP1,none,8192,1024,256,"
      "1613.8,32.69,30.83\n");
  EXPECT_EQ(engines.step.batch, 55);
  EXPECT_EQ(engines.step.plan, "tp=8,ep=1");
  const auto h20 = only<EngineStepCase>(
      kH20 + "B.1.1,decode,H20-141GB,2,16,PP2-TP8,x,none,32K,16.0,peak_tpot,37.97,ms,\n");
  EXPECT_EQ(h20.step.context, 32768);
  EXPECT_EQ(h20.step.batch, 16);
  EXPECT_EQ(h20.step.stack, "sglang");
}

// What a pool of so many GPUs beside prefill engines of this width is read as.
std::string pool_plan(const std::string& prefill, const std::string& decode) {
  return only<EngineStepCase>(kPools +
                              "GB300 NVL72,DeepSeek-V4-Pro,FP4,Dynamo vLLM disaggregated," +
                              prefill + "," + decode + ",none,8192,1024,18,100,100,10\n")
      .step.plan;
}

TEST(MeasurementTable, TensorParallelPoolsAreAsWideAsPrefillEnginesOrHalfAsWide) {
  EXPECT_EQ(pool_plan("8 GPU TP8", "32 GPU EP1"), "tp=8,ep=1");
  EXPECT_EQ(pool_plan("4 GPU TP4", "68 GPU EP1"), "tp=4,ep=1");
  EXPECT_EQ(pool_plan("8 GPU TP8", "68 GPU EP1"), "tp=4,ep=1");
  EXPECT_EQ(pool_plan("28 GPU TP8", "32 GPU EP16"), "dp=16,ep=16");
  const auto vllm = only<EngineStepCase>(
      kPools +
      "GB300 NVL72,DeepSeek-V4-Pro,FP4,Dynamo vLLM disaggregated,4 GPU TP4,8 GPU EP8,none,8192,"
      "1024,18,100,100,10\n");
  EXPECT_EQ(vllm.step.stack, "vllm");
}

TEST(MeasurementTable, AChipOfAtlasA3IsTwoDevices) {
  const auto a3 = only<EngineStepCase>(
      kCann +
      "Atlas A3 Pod,DeepSeek-V4-Flash,decode,64,\"attention DP, MoE EP\",W8A8C16 int8,256,8192,3,"
      "1.44,19.84,202,\n");
  EXPECT_EQ(a3.step.plan, "dp=128,ep=128,overlap=none,routing=balanced");
  EXPECT_EQ(a3.step.stack, "cann");
  EXPECT_EQ(
      reason(kCann + "Atlas A3,DeepSeek-V3.2-Exp,decode,64,x,W8A8C8,256,65536,3,1.44,19.84,1,\n"),
      "precision 'W8A8C8' has no recipe");
}

TEST(MeasurementTable, EnginesThatHaveNoModelAreSkippedByName) {
  EXPECT_EQ(reason(kCann + "Ascend 950DT,DeepSeek-V4-Pro,decode,64,x,Hybrid HiF8-MXFP8-MXFP4,16,"
                           "8192,3,1.44,8,1,\n"),
            "precision 'Hybrid HiF8-MXFP8-MXFP4' has no recipe");
  EXPECT_EQ(reason(kPools + "GB300 NVL72,DeepSeek-V4-Pro,FP4,Dynamo,4 GPU TP4,68 GPU EP1,MTP,8192,"
                            "1024,1,1,1,1\n"),
            "speculative decoding whose acceptance is not said");
  EXPECT_EQ(reason(kPools + "GB300 NVL72,DeepSeek-V4-Pro,FP4,Dynamo,8 GPU TP8,70 GPU EP1,none,8192,"
                            "1024,1,1,1,1\n"),
            "how '70 GPU EP1' form engines is not said");
  EXPECT_THAT(reason(kH20 + "A.1,prefill,H20-141GB,2,16,PP2-TP8,x,none,32K,1,ttft,37.97,ms,\n"),
              HasSubstr("metric 'ttft'"));
  EXPECT_THAT(reason("gpu,model,strategy,isl,osl,max_concurrency,tpot_ms\n"
                     "B200,DeepSeek-V4-Pro,high-throughput,8192,1024,1024,71\n"),
              HasSubstr("saturated serving"));
}

TEST(MeasurementTable, AnEmptyFieldSkipsTheRowAndKeepsWhatWasMeasured) {
  const auto all = read(kDense + "b200_sxm,,,,fp8,,,256,4096,4.25\nb200_sxm,,,,fp8,,1,256,4096,\n");
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(std::get<SkippedCase>(all[0].measured).reason, "'m' is empty");
  EXPECT_EQ(std::get<SkippedCase>(all[0].measured).class_name, "dense_gemm");
  EXPECT_EQ(std::get<SkippedCase>(all[0].measured).label, "b200_sxm fp8 256 4096 4.25");
  EXPECT_EQ(all[0].value, 4.25);
  EXPECT_EQ(std::get<SkippedCase>(all[1].measured).reason, "no measured time is given");
  EXPECT_EQ(all[1].row, 2);
}

TEST(MeasurementTable, HostileFieldsAreErrorsWithTheirPlace) {
  const std::string start = kDense + "b200_sxm,,,,fp8,,";
  EXPECT_EQ(error_of(start + "x,256,4096,4\n"), "t.csv:2:18: error: 'm': 'x' is not a number");
  EXPECT_EQ(error_of(start + "1,256,4096,-4\n"),
            "t.csv:2:29: error: 'latency_us': '-4' is not positive");
  EXPECT_EQ(error_of(start + "1,256,4096,0\n"),
            "t.csv:2:29: error: 'latency_us': '0' is not positive");
  EXPECT_EQ(error_of(start + "1,256,4096,1e400\n"),
            "t.csv:2:29: error: 'latency_us': '1e400' is out of range");
  EXPECT_EQ(error_of(start + "1,256,4096,nan\n"),
            "t.csv:2:29: error: 'latency_us': 'nan' is not a number");
  EXPECT_EQ(error_of(start + "1,256,4096,inf\n"),
            "t.csv:2:29: error: 'latency_us': 'inf' is not a number");
  EXPECT_EQ(error_of(start + "1.5,256,4096,4\n"),
            "t.csv:2:18: error: 'm': '1.5' is not a whole number");
  EXPECT_EQ(error_of(start + "0,256,4096,4\n"),
            "t.csv:2:18: error: 'm': '0' is not between 1 and 2^40");
  EXPECT_EQ(error_of(start + "1,256,1e300,4\n"),
            "t.csv:2:24: error: 'k': '1e300' is not between 1 and 2^40");
  EXPECT_EQ(error_of(start + "1,256,4096\n"), "t.csv:2:1: error: 9 cells where the header has 10");
  EXPECT_EQ(error_of(""), "t.csv:1:1: error: has no header row");
  EXPECT_EQ(error_of(kDense + std::string("b200\0", 5)),
            "t.csv:2:5: error: NUL byte; this is not a text file");
}

TEST(MeasurementTable, AVeryLongLineIsReadAndItsMessageIsShort) {
  const std::string longer(1 << 20, '9');
  const std::string message = error_of(kDense + "b200_sxm,,,,fp8,,1,256,4096," + longer + "\n");
  EXPECT_THAT(message, HasSubstr("t.csv:2:29: error: 'latency_us': '9999"));
  EXPECT_LT(message.size(), 300u);
}

TEST(MeasurementTable, WholeNumbersAreReadAsProgramsPrintThem) {
  EXPECT_EQ(parse_whole("1e+06", 1), 1000000);
  EXPECT_EQ(parse_whole("16.0", 1), 16);
  EXPECT_EQ(parse_whole("0", 0), 0);
  EXPECT_EQ(parse_whole("1099511627776", 1), std::int64_t{1} << 40);
  for (const char* text : {"", " 1", "1 ", "+1", "0x10", "1e", "1,000", "1e13", "-1", "1_000"}) {
    EXPECT_THROW((void)parse_whole(text, 0), std::invalid_argument) << text;
  }
}

}  // namespace
}  // namespace foretoken::analysis::validation
