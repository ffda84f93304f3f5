// Working memory that is kept between calls: fresh pages cost more than most of what is done with
// them (the kernel zeroes each one at its first touch).
#pragma once
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

inline constexpr size_t kKeptBytes = size_t{128} << 20;  // At most this much stays allocated.

// Asks for large pages, where the system has them, for memory that is about to be filled.
inline void prefer_large_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kPage = 4096, kLarge = size_t{2} << 20;
  if (bytes < 2 * kLarge) return;
  const size_t begin = (reinterpret_cast<size_t>(memory) + kPage - 1) / kPage * kPage;
  const size_t end = (reinterpret_cast<size_t>(memory) + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)memory;
  (void)bytes;
#endif
}

class ScratchPool {
 public:
  struct Block {
    void* memory;
    size_t bytes;
  };

  static ScratchPool& instance() {
    static ScratchPool* pool = new ScratchPool;  // Outlives every thread, so it is never deleted.
    return *pool;
  }

  Block take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      size_t best = free_.size();
      for (size_t i = 0; i < free_.size(); ++i) {
        const bool fits = free_[i].bytes >= bytes && free_[i].bytes / 4 <= bytes;
        if (fits && (best == free_.size() || free_[i].bytes < free_[best].bytes)) best = i;
      }
      if (best < free_.size()) {
        const Block block = free_[best];
        free_[best] = free_.back();
        free_.pop_back();
        kept_ -= block.bytes;
        return block;
      }
    }
    bytes = (bytes + bytes / 4 + kAlignment) / kAlignment * kAlignment;
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes)) throw std::bad_alloc();
    prefer_large_pages(memory, bytes);
    return {memory, bytes};
  }

  void give_back(Block block) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (kept_ + block.bytes <= kKeptBytes) {
        free_.push_back(block);
        kept_ += block.bytes;
        return;
      }
    }
    std::free(block.memory);
  }

 private:
  static constexpr size_t kAlignment = 4096;
  std::mutex mutex_;
  std::vector<Block> free_;
  size_t kept_ = 0;
};

// An array of plain data without initial values, aligned for vectors.
template <typename T>
class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(size_t count) : block_(ScratchPool::instance().take(count * sizeof(T) + 1)) {}
  Scratch(Scratch&& other) noexcept : block_(other.block_) { other.block_ = {}; }
  Scratch& operator=(Scratch&& other) noexcept {
    const auto mine = block_;
    block_ = other.block_;
    other.block_ = mine;
    return *this;
  }
  ~Scratch() {
    if (block_.memory) ScratchPool::instance().give_back(block_);
  }
  T* data() const { return static_cast<T*>(block_.memory); }
  T& operator[](size_t i) const { return data()[i]; }

 private:
  ScratchPool::Block block_{};
};
