#include "health/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <array>
#include <ctime>

#include "absl/strings/str_cat.h"

namespace headgate::health {
namespace {

// The oldest error in the thread's queue, which is the cause; empties it.
std::string TakeError() {
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason == nullptr ? "" : reason;
}

struct ContextFree {
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using Context = std::unique_ptr<SSL_CTX, ContextFree>;

absl::StatusOr<Context> MakeContext(bool verify) {
  Context context(SSL_CTX_new(TLS_client_method()));
  if (context == nullptr) {
    return absl::InternalError(absl::StrCat("start TLS: ", TakeError()));
  }
  // What a server speaks is for it to choose: a check looks, it hides nothing.
  SSL_CTX_set_min_proto_version(context.get(), TLS1_VERSION);
  SSL_CTX_set_security_level(context.get(), 0);
  if (!verify) return context;
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (SSL_CTX_set_default_verify_paths(context.get()) != 1) {
    return absl::InternalError(absl::StrCat(
        "read the system's certificate authorities: ", TakeError()));
  }
  return context;
}

// One for each thread and kind: reading the authorities takes long.
absl::StatusOr<SSL_CTX*> SharedContext(bool verify) {
  thread_local std::array<Context, 2> contexts;
  Context& context = contexts[verify ? 1 : 0];
  if (context == nullptr) {
    auto made = MakeContext(verify);
    if (!made.ok()) return made.status();
    context = *std::move(made);
  }
  return context.get();
}

// SSL_set_tlsext_host_name, which is a macro with a cast.
bool SetServerName(SSL* ssl, std::string name) {
  return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                  name.data()) == 1;
}

// The name or address that the certificate must carry.
bool Expect(SSL* ssl, const Tls::Options& options) {
  if (!options.server_name.empty()) {
    return SSL_set1_host(ssl, options.server_name.c_str()) == 1;
  }
  return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl),
                                       options.address.ToString().c_str()) == 1;
}

absl::Time ToTime(const ASN1_TIME* time) {
  tm broken_down{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &broken_down) != 1) {
    return absl::InfinitePast();
  }
  return absl::FromTimeT(timegm(&broken_down));
}

std::string SubjectOf(const X509* certificate) {
  std::array<char, 256> text{};
  X509_NAME_oneline(X509_get_subject_name(certificate), text.data(),
                    static_cast<int>(text.size()));
  return text.data();
}

}  // namespace

struct Tls::Ssl {
  ~Ssl() { SSL_free(ssl); }

  SSL* ssl = nullptr;
  BIO* in = nullptr;  // Owned by ssl, like `out`.
  BIO* out = nullptr;
};

Tls::Tls(std::unique_ptr<Ssl> ssl) : ssl_(std::move(ssl)) {}

Tls::~Tls() { ERR_clear_error(); }

absl::StatusOr<std::unique_ptr<Tls>> Tls::Make(const Options& options) {
  const auto context = SharedContext(options.verify);
  if (!context.ok()) return context.status();
  auto made = std::make_unique<Ssl>();
  made->ssl = SSL_new(*context);
  made->in = BIO_new(BIO_s_mem());
  made->out = BIO_new(BIO_s_mem());
  if (made->ssl == nullptr || made->in == nullptr || made->out == nullptr) {
    BIO_free(made->in);
    BIO_free(made->out);
    return absl::InternalError(absl::StrCat("start TLS: ", TakeError()));
  }
  SSL_set_bio(made->ssl, made->in, made->out);
  SSL_set_connect_state(made->ssl);
  const bool named = options.server_name.empty() ||
                     SetServerName(made->ssl, options.server_name);
  if (!named || (options.verify && !Expect(made->ssl, options))) {
    return absl::InternalError(
        absl::StrCat("start TLS: the server's name: ", TakeError()));
  }
  return std::unique_ptr<Tls>(new Tls(std::move(made)));
}

void Tls::Feed(absl::string_view bytes) {
  BIO_write(ssl_->in, bytes.data(), static_cast<int>(bytes.size()));
}

std::string Tls::TakeOutput() {
  std::string bytes(BIO_ctrl_pending(ssl_->out), '\0');
  if (bytes.empty()) return bytes;
  const int got =
      BIO_read(ssl_->out, bytes.data(), static_cast<int>(bytes.size()));
  bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return bytes;
}

Tls::Progress Tls::Judge(int result) {
  switch (SSL_get_error(ssl_->ssl, result)) {
    case SSL_ERROR_NONE:
      return Progress::kDone;
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      return Progress::kWaits;
    default:
      error_ = TakeError();
      if (rejected_certificate()) {
        error_ =
            X509_verify_cert_error_string(SSL_get_verify_result(ssl_->ssl));
      }
      if (error_.empty()) error_ = "the connection broke";
      return Progress::kFailed;
  }
}

Tls::Progress Tls::Handshake() {
  ERR_clear_error();
  return Judge(SSL_do_handshake(ssl_->ssl));
}

Tls::Progress Tls::Read(std::string& out) {
  std::array<char, 4096> buffer;
  for (;;) {
    ERR_clear_error();
    const int got =
        SSL_read(ssl_->ssl, buffer.data(), static_cast<int>(buffer.size()));
    if (got > 0) {
      out.append(buffer.data(), static_cast<size_t>(got));
    } else if (SSL_get_error(ssl_->ssl, got) == SSL_ERROR_ZERO_RETURN) {
      return Progress::kDone;
    } else {
      return Judge(got);
    }
  }
}

void Tls::Write(absl::string_view bytes) {
  ERR_clear_error();
  SSL_write(ssl_->ssl, bytes.data(), static_cast<int>(bytes.size()));
}

void Tls::Close() {
  ERR_clear_error();
  SSL_shutdown(ssl_->ssl);
}

bool Tls::rejected_certificate() const {
  return SSL_get_verify_mode(ssl_->ssl) != SSL_VERIFY_NONE &&
         SSL_get_verify_result(ssl_->ssl) != X509_V_OK;
}

std::string Tls::Description() const {
  return absl::StrCat(SSL_get_version(ssl_->ssl), ", ",
                      SSL_get_cipher_name(ssl_->ssl));
}

std::optional<Certificate> Tls::PeerCertificate() const {
  const X509* certificate = SSL_get0_peer_certificate(ssl_->ssl);
  if (certificate == nullptr) return std::nullopt;
  return Certificate{SubjectOf(certificate),
                     ToTime(X509_get0_notAfter(certificate))};
}

}  // namespace headgate::health
