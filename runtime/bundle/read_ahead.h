// ReadAhead: one thread that maps and hashes a bundle's blocks while the model is still being loaded, from the first
// block on. What it has seen to match need not be hashed again; what does not match it leaves to the caller, who finds
// and reports it as if nobody had looked ahead.
#pragma once

#include <atomic>
#include <cstddef>
#include <span>
#include <thread>
#include <vector>

#include "runtime/bundle/bundle.h"

namespace bitnet {

class ReadAhead {
 public:
  // Begins to work through `sections` in this order; the bytes that they view outlive the object. It does nothing where
  // the system gives no thread.
  ReadAhead(const HashedBytes& first, const HashedBytes& second);
  ~ReadAhead() { (void)stop(); }
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // How many blocks match, from the start of each section: `first` whole before `second` begins.
  struct Matching {
    std::size_t first = 0;
    std::size_t second = 0;
  };
  // Ends the work, within one block's time, and says how far it got; later calls say the same.
  Matching stop();

 private:
  void work();

  HashedBytes first_;
  HashedBytes second_;
  Matching matching_;  // the thread's until it is joined
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace bitnet
