// The client's side of TLS without a socket: bytes of the network go in and
// come out, so that whoever owns the socket keeps all system calls (and their
// MSG_NOSIGNAL) to himself. OpenSSL stays inside tls.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "health/result.h"
#include "net/address.h"

namespace headgate::health {

class Tls {
 public:
  struct Options {
    std::string server_name;  // For SNI, and the name to verify; empty: none.
    // Verify the chain against the system's authorities, and server_name or
    // else the address.
    bool verify = false;
    IpAddress address;
  };
  // Internal: OpenSSL has no memory, or cannot read the authorities.
  static absl::StatusOr<std::unique_ptr<Tls>> Make(const Options& options);
  ~Tls();

  // What came from the network. Its effect shows in the next calls.
  void Feed(absl::string_view bytes);
  // What is to be sent; empty: nothing for now.
  std::string TakeOutput();

  enum class Progress { kWaits, kDone, kFailed };
  Progress Handshake();
  // Appends what the peer said to `out`. kWaits: there may come more; kDone:
  // it has said goodbye (close_notify); kFailed: see error().
  Progress Read(std::string& out);
  void Write(absl::string_view bytes);
  void Close();  // close_notify

  // Why it failed, in OpenSSL's words: "wrong version number".
  const std::string& error() const { return error_; }
  // Whether it failed over the peer's certificate.
  bool rejected_certificate() const;
  std::string Description() const;  // "TLSv1.3, TLS_AES_256_GCM_SHA384"
  std::optional<Certificate> PeerCertificate() const;

 private:
  struct Ssl;  // OpenSSL's objects.

  explicit Tls(std::unique_ptr<Ssl> ssl);
  Progress Judge(int result);

  std::unique_ptr<Ssl> ssl_;
  std::string error_;
};

}  // namespace headgate::health
