// Parallel loops on XLA's own threads, so that the splatter never competes with the rest of the
// program for cores and owns no thread that a fork or an exit could hurt.
#pragma once
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#include "xla/ffi/api/ffi.h"

class Team {
 public:
  // At most `limit` threads, the caller's included; 0 stands for every thread XLA has.
  Team(xla::ffi::ThreadPool pool, int64_t limit) : pool_(pool) {
    const int64_t all = std::max<int64_t>(pool.num_threads(), 1);
    size_ = limit > 0 ? std::min(limit, all) : all;
  }

  int64_t size() const { return size_; }

  // Calls job(0) ... job(count - 1), in any order, and returns when all are done. The caller works
  // too and waits only for jobs that another thread has begun, so a busy pool delays nothing and
  // nested or simultaneous calls cannot lock each other out.
  void run(size_t count, std::function<void(size_t)> job) {
    if (size_ <= 1 || count <= 1) {
      for (size_t i = 0; i < count; ++i) job(i);
      return;
    }
    auto loop = std::make_shared<Loop>();
    loop->count = count;
    loop->job = std::move(job);
    const int64_t helpers = std::min<int64_t>(size_, count) - 1;
    for (int64_t i = 0; i < helpers; ++i) pool_.Schedule([loop] { loop->work(); });
    loop->work();
    std::unique_lock<std::mutex> lock(loop->mutex);
    loop->all_done.wait(lock, [&] { return loop->done == count; });
    if (loop->out_of_memory) throw std::bad_alloc();
  }

 private:
  // Outlives run() in helpers that the pool starts late; those find nothing left to do.
  struct Loop {
    std::function<void(size_t)> job;
    size_t count = 0;
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::condition_variable all_done;
    size_t done = 0;             // Guarded by the mutex.
    bool out_of_memory = false;  // Guarded by the mutex.

    void work() {
      for (size_t i; (i = next++) < count;) {
        bool failed = false;
        try {
          job(i);
        } catch (const std::bad_alloc&) {
          failed = true;
        }
        std::lock_guard<std::mutex> lock(mutex);
        out_of_memory |= failed;
        if (++done == count) all_done.notify_one();
      }
    }
  };

  xla::ffi::ThreadPool pool_;
  int64_t size_;
};
