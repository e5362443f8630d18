// One service and its backends in the maps, and the selection program.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "balance/maglev.h"
#include "datapath/datapath.h"

namespace headgate::datapath {

using Counts = std::map<uint32_t, int>;  // Selections by backend id.

struct Client {
  uint8_t address[16] = {};
  uint16_t port = 0;
};

// 198.18.0.0/15 and ports: a different client for each number.
inline Client Ipv4Client(uint32_t number) {
  Client client;
  const uint32_t address = 0xc6120000 | (number & 0x1ffff);
  client.address[10] = client.address[11] = 0xff;
  for (int i = 0; i < 4; ++i) {
    client.address[12 + i] = static_cast<uint8_t>(address >> (24 - 8 * i));
  }
  client.port = static_cast<uint16_t>(1024 + (number >> 17));
  return client;
}

inline constexpr hg_balance kBalances[] = {
    HG_BALANCE_ROUND_ROBIN, HG_BALANCE_LEAST_CONNECTIONS, HG_BALANCE_MAGLEV,
    HG_BALANCE_SOURCE, HG_BALANCE_FIRST};

inline std::string BalanceName(
    const ::testing::TestParamInfo<hg_balance>& info) {
  constexpr const char* kNames[] = {"RoundRobin", "LeastConnections", "Maglev",
                                    "Source", "First"};
  return kNames[info.param];
}

class SelectTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kService = 1;
  static constexpr uint32_t kTable = 7;

  // Loading the programs takes longer than most tests.
  static void SetUpTestSuite() {
    auto opened = Datapath::Open({"/sys/fs/bpf/select_test", 1, 1024});
    ASSERT_TRUE(opened.ok()) << opened.status();
    datapath_ = *std::move(opened);
  }
  static void TearDownTestSuite() { datapath_.reset(); }

  void SetUp() override {
    ASSERT_NE(datapath_, nullptr);
    std::strcpy(service_.name, "smtp");
  }
  void TearDown() override {
    ASSERT_TRUE(datapath_->EraseService(kService).ok());
    ASSERT_TRUE(datapath_->EraseTable(kTable).ok());
    Clear(datapath_->service_stats(kService));
    for (uint32_t id = 0; id < HG_MAX_BACKENDS; ++id) {
      ASSERT_TRUE(datapath_->EraseBackend(id).ok());
      Clear(datapath_->backend_stats(id));
    }
  }

  static hg_backend MakeBackend(uint32_t weight) {
    hg_backend backend{};
    backend.service = kService;
    backend.weight = weight;
    backend.health = HG_HEALTH_UP;
    backend.port = 25;
    return backend;
  }
  static hg_backend Down() {
    hg_backend backend = MakeBackend(1);
    backend.health = HG_HEALTH_DOWN;
    return backend;
  }
  static hg_backend Backup() {
    hg_backend backend = MakeBackend(1);
    backend.backup = 1;
    return backend;
  }
  static hg_backend Draining() {
    hg_backend backend = MakeBackend(1);
    backend.admin = HG_ADMIN_DRAIN;
    return backend;
  }
  static hg_backend Limited(uint32_t max_connections) {
    hg_backend backend = MakeBackend(1);
    backend.max_connections = max_connections;
    return backend;
  }

  void Put(uint32_t id, const hg_backend& backend) {
    ASSERT_TRUE(datapath_->PutBackend(id, backend).ok());
  }
  void PutService() {
    ASSERT_TRUE(datapath_->PutService(kService, service_).ok());
  }

  // Backends 1, 2, ... with these weights make up the service.
  void Serve(const std::vector<uint32_t>& weights,
             hg_balance balance = HG_BALANCE_ROUND_ROBIN) {
    service_.balance = balance;
    service_.backend_count = 0;
    std::vector<balance::Member> members;
    for (const uint32_t weight : weights) {
      const uint32_t id = ++service_.backend_count;
      service_.backends[id - 1] = id;
      members.push_back({absl::StrCat("node-", id), weight});
      Put(id, MakeBackend(weight));
    }
    if (balance == HG_BALANCE_MAGLEV || balance == HG_BALANCE_SOURCE) {
      PutTable(members);
    }
    PutService();
  }

  void PutTable(const std::vector<balance::Member>& members) {
    const absl::Status put =
        datapath_->PutTable(kTable, balance::BuildTable(members));
    ASSERT_TRUE(put.ok()) << put;
    service_.table = kTable;
  }

  hg_select Answer(const std::vector<uint32_t>& tried_slots = {},
                   const Client& client = {}) const {
    hg_select request{};
    request.service = kService;
    request.full = 7;  // Not what it answers.
    std::memcpy(request.client, client.address, sizeof request.client);
    request.client_port = client.port;
    for (const uint32_t slot : tried_slots) {
      request.tried[slot / 64] |= 1ULL << (slot % 64);
    }
    const absl::Status status = datapath_->Select(&request);
    EXPECT_TRUE(status.ok()) << status;
    return request;
  }
  // The backend chosen, 0 for none.
  uint32_t Select(const std::vector<uint32_t>& tried_slots = {},
                  const Client& client = {}) const {
    return Answer(tried_slots, client).backend;
  }
  // Whether none was chosen for want of room alone.
  bool AllAreFull(const std::vector<uint32_t>& tried_slots = {}) const {
    const hg_select answer = Answer(tried_slots);
    EXPECT_TRUE(answer.backend == 0 || answer.full == 0);
    return answer.full == 1;
  }
  uint32_t SelectFor(uint32_t client) const {
    return Select({}, Ipv4Client(client));
  }
  // The same, and a connection to it is open from then on.
  uint32_t Connect(uint32_t client = 0) const {
    const uint32_t backend = SelectFor(client);
    Add(datapath_->backend_stats(backend).connections_active, 1);
    return backend;
  }
  void SetActive(uint32_t backend, uint64_t connections) const {
    datapath_->backend_stats(backend).connections_active = connections;
  }

  Counts Count(int selections) const {
    Counts counts;
    for (int i = 0; i < selections; ++i) ++counts[Select()];
    return counts;
  }

  static uint32_t Threads() {
    return std::max(2U, std::thread::hardware_concurrency());
  }

  // By as many threads as there are cores, 2 at least; client i of 0 to
  // `selections` selects once, by `select`.
  template <typename Select>
  Counts CountInThreads(uint32_t selections, const Select& select) const {
    const uint32_t threads = Threads();
    std::vector<Counts> counts(threads);
    std::vector<std::thread> running;
    for (uint32_t thread = 0; thread < threads; ++thread) {
      running.emplace_back([&, thread] {
        for (uint32_t i = thread; i < selections; i += threads) {
          ++counts[thread][select(i)];
        }
      });
    }
    for (std::thread& thread : running) thread.join();
    Counts total;
    for (const Counts& each : counts) {
      for (const auto& [backend, count] : each) total[backend] += count;
    }
    return total;
  }
  Counts CountInThreads(uint32_t selections) const {
    return CountInThreads(selections, [&](uint32_t i) { return SelectFor(i); });
  }

  static inline std::unique_ptr<Datapath> datapath_;
  hg_service service_{};
};

}  // namespace headgate::datapath
