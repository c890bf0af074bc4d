// boost::asio with OpenSSL, as asio.cpp is written: an io_context and a thread a CPU, the answers of one read leave in
// one async_write.
#include "frame.hpp"

#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <cstdio>
#include <memory>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <unordered_set>
#include <vector>

namespace asio = boost::asio;
using asio::ip::tcp;

struct session;

struct shard {
    asio::io_context io{1};
    std::unordered_set<std::shared_ptr<session>> sessions; // its thread's own
};

std::vector<std::unique_ptr<shard>> shards;
asio::ssl::context tls(asio::ssl::context::tls_server);

struct session : std::enable_shared_from_this<session> {
    shard& home;
    asio::ssl::stream<tcp::socket> stream;
    std::vector<char> buf = std::vector<char>(4 << 10); // grows when a read fills it
    size_t held = 0;
    std::string waiting, writing; // to send; being sent
    bool busy = false, dead = false;

    session(shard& h) : home(h), stream(h.io, tls) {}

    void start() {
        stream.lowest_layer().set_option(tcp::no_delay(true));
        home.sessions.insert(shared_from_this());
        stream.async_handshake(asio::ssl::stream_base::server,
                               [self = shared_from_this()](boost::system::error_code ec) {
                                   if (ec) return self->drop();
                                   self->read();
                               });
    }
    void drop() {
        if (dead) return;
        dead = true;
        boost::system::error_code ignored;
        stream.lowest_layer().close(ignored);
        home.sessions.erase(shared_from_this());
    }
    void read() {
        stream.async_read_some(asio::buffer(buf.data() + held, buf.size() - held),
                               [self = shared_from_this()](boost::system::error_code ec, size_t n) {
                                   if (ec) return self->drop();
                                   self->got(n);
                               });
    }
    void got(size_t n);
    void send(const char* p, size_t n) {
        waiting.append(p, n);
        flush();
    }
    void flush() {
        if (busy || dead || waiting.empty()) return;
        busy = true;
        writing.clear();
        writing.swap(waiting);
        asio::async_write(stream, asio::buffer(writing),
                          [self = shared_from_this()](boost::system::error_code ec, size_t) {
                              self->busy = false;
                              if (ec) return self->drop();
                              self->flush();
                          });
    }
};

void broadcast(const char* p, size_t n) {
    auto frame = std::make_shared<std::string>(p, n);
    for (auto& s : shards) {
        shard* sh = s.get();
        asio::post(sh->io, [sh, frame] {
            std::vector<std::shared_ptr<session>> all(sh->sessions.begin(), sh->sessions.end());
            for (auto& c : all) c->send(frame->data(), frame->size());
        });
    }
}

void session::got(size_t n) {
    size_t have = held + n;
    bool full = have == buf.size();
    long used = answer(buf.data(), have, waiting, broadcast);
    if (used < 0) return drop();
    flush();
    held = have - size_t(used);
    memmove(buf.data(), buf.data() + used, held);
    if (full && (buf.size() < (64 << 10) || held == buf.size())) buf.resize(2 * buf.size());
    read();
}

// certify gives the context a certificate for localhost, made in memory: ECDSA on P-256.
bool certify() {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* cert = X509_new();
    if (!key || !cert) return false;
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 30 * 24 * 3600);
    X509_set_pubkey(cert, key);
    X509_NAME* name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
    X509_set_issuer_name(cert, name);
    return X509_sign(cert, key, EVP_sha256()) && SSL_CTX_use_certificate(tls.native_handle(), cert) &&
           SSL_CTX_use_PrivateKey(tls.native_handle(), key);
}

void accept(tcp::acceptor& acceptor, size_t next) {
    auto s = std::make_shared<session>(*shards[next % shards.size()]);
    acceptor.async_accept(s->stream.lowest_layer(), [&acceptor, s, next](boost::system::error_code ec) {
        if (!ec) asio::post(s->home.io, [s] { s->start(); });
        accept(acceptor, next + 1);
    });
}

int main(int argc, char** argv) {
    options o = parse(argc, argv);
    if (!certify()) {
        fprintf(stderr, "no certificate\n");
        return 1;
    }
    for (int i = 0; i < o.loops; i++) shards.push_back(std::make_unique<shard>());
    tcp::acceptor acceptor(shards[0]->io, tcp::endpoint(asio::ip::make_address(o.host), uint16_t(o.port)));
    acceptor.listen(4096);
    printf("ready tls://%s:%d\n", o.host.c_str(), int(acceptor.local_endpoint().port()));
    fflush(stdout);
    accept(acceptor, 0);
    std::vector<std::thread> threads;
    std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards;
    for (auto& s : shards) guards.push_back(asio::make_work_guard(s->io));
    for (size_t i = 1; i < shards.size(); i++) threads.emplace_back([i] { shards[i]->io.run(); });
    shards[0]->io.run();
}
