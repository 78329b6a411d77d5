#include "reference/model/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "tests/reference/model/model_fixtures.h"

namespace foretoken::reference {
namespace {

namespace fs = std::filesystem;
using base::content_of;
using base::ScratchFolder;
using base::thrown;
using testing::HasSubstr;

const std::vector<PlannedTensor> kTensors = {{"b", StorageDtype::kF8E4M3, {3, 5}},
                                             {"c", StorageDtype::kI64, {2}},
                                             {"a \"quoted\"", StorageDtype::kBf16, {7}},
                                             {"empty", StorageDtype::kF32, {0, 4}}};

std::string bytes_for(const PlannedTensor& tensor) {
  return std::string(tensor.bytes(), tensor.name[0]);
}

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span<const char>(text));
}

TEST(SafetensorsStream, WritesWhatTheSpoolingWriterWrites) {
  const ScratchFolder folder;
  SafetensorsWriter writer(folder / "spooled");
  for (const PlannedTensor& tensor : kTensors) {
    const std::size_t number = writer.add(tensor.name, tensor.dtype);
    writer.append(number, as_bytes(bytes_for(tensor)));
    writer.finish(number, tensor.shape);
  }
  writer.commit();
  SafetensorsStream stream(folder / "streamed", kTensors);
  for (const PlannedTensor& tensor : stream.tensors()) stream.append(as_bytes(bytes_for(tensor)));
  EXPECT_FALSE(fs::exists(folder / "streamed"));
  stream.commit();
  EXPECT_EQ(content_of(folder / "streamed"), content_of(folder / "spooled"));
}

TEST(SafetensorsStream, MistakesAreRefusedAndLeaveNothing) {
  const ScratchFolder folder;
  const auto refused = [&](const std::vector<PlannedTensor>& tensors) {
    return thrown<std::invalid_argument>([&] { SafetensorsStream(folder / "x", tensors); });
  };
  EXPECT_THAT(refused({kTensors[0], kTensors[0]}), HasSubstr("'b' is written twice"));
  EXPECT_THAT(refused({{"", StorageDtype::kF32, {1}}}), HasSubstr("needs a name"));
  EXPECT_THAT(refused({{"n", StorageDtype::kF32, {-1}}}), HasSubstr("tensor 'n'"));
  EXPECT_THAT(refused({{"n", StorageDtype::kF32, std::vector<std::int64_t>(33, 1)}}),
              HasSubstr("too many dimensions"));
  {
    SafetensorsStream stream(folder / "x", kTensors);
    stream.append(as_bytes("0123456789"));
    EXPECT_THAT(thrown<std::invalid_argument>([&] { stream.commit(); }),
                HasSubstr("bytes are missing"));
    EXPECT_THAT(
        thrown<std::invalid_argument>([&] { stream.append(as_bytes(std::string(99, 'x'))); }),
        HasSubstr("too many bytes"));
  }
  EXPECT_EQ(folder.count(), 0U);
}

TEST(CheckpointWriter, AFailedWriteRemovesItsFiles) {
  const ScratchFolder folder;
  std::size_t filled = 0;
  const auto fill = [&](const PlannedTensor& tensor, const AppendBytes& append) {
    if (++filled == 3) throw base::UnsupportedError("no more");
    append(as_bytes(bytes_for(tensor)));
  };
  EXPECT_EQ(thrown<base::UnsupportedError>([&] {
              write_checkpoint({folder / "c", 1}, "{}", kTensors, fill);  // one tensor a file
            }),
            "no more");
  EXPECT_TRUE(fs::is_empty(folder / "c"));
}

TEST(CheckpointWriter, ATensorLargerThanAShardHasOneOfItsOwn) {
  const ScratchFolder folder;
  const auto fill = [](const PlannedTensor& tensor, const AppendBytes& append) {
    append(as_bytes(bytes_for(tensor)));
  };
  const WrittenCheckpoint written = write_checkpoint({folder / "c", 16}, "{}", kTensors, fill);
  EXPECT_EQ(written.files, 3U);  // b; c; the rest
  EXPECT_EQ(written.bytes, 15U + 16U + 14U);
  const Checkpoint checkpoint(folder / "c");
  EXPECT_EQ(checkpoint.names().size(), 4U);
  EXPECT_EQ(checkpoint.require("c").file->path().filename(), "model-00002-of-00003.safetensors");
}

}  // namespace
}  // namespace foretoken::reference
