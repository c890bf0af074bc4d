// boost::asio the way the engine that Millrace grew from used it: an io_context a CPU; here one
// thread runs each, so that no strand is needed. Answers of one read leave in one async_write.
#include "frame.hpp"

#include <boost/asio.hpp>
#include <cstdio>
#include <memory>
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

struct session : std::enable_shared_from_this<session> {
    shard& home;
    tcp::socket socket;
    std::vector<char> buf = std::vector<char>(4 << 10); // grows when a read fills it
    size_t held = 0;
    std::string waiting, writing; // to send; being sent
    bool busy = false, dead = false;

    session(shard& h) : home(h), socket(h.io) {}

    void start() {
        socket.set_option(tcp::no_delay(true));
        home.sessions.insert(shared_from_this());
        read();
    }
    void drop() {
        if (dead) return;
        dead = true;
        boost::system::error_code ignored;
        socket.close(ignored);
        home.sessions.erase(shared_from_this());
    }
    void read() {
        socket.async_read_some(asio::buffer(buf.data() + held, buf.size() - held),
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
        asio::async_write(socket, asio::buffer(writing),
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

void accept(tcp::acceptor& acceptor, size_t next) {
    auto s = std::make_shared<session>(*shards[next % shards.size()]);
    acceptor.async_accept(s->socket, [&acceptor, s, next](boost::system::error_code ec) {
        if (!ec) asio::post(s->home.io, [s] { s->start(); });
        accept(acceptor, next + 1);
    });
}

int main(int argc, char** argv) {
    options o = parse(argc, argv);
    for (int i = 0; i < o.loops; i++) shards.push_back(std::make_unique<shard>());
    tcp::acceptor acceptor(shards[0]->io, tcp::endpoint(asio::ip::make_address(o.host), uint16_t(o.port)));
    acceptor.listen(4096);
    printf("ready tcp://%s:%d\n", o.host.c_str(), int(acceptor.local_endpoint().port()));
    fflush(stdout);
    accept(acceptor, 0);
    std::vector<std::thread> threads;
    std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards;
    for (auto& s : shards) guards.push_back(asio::make_work_guard(s->io));
    for (size_t i = 1; i < shards.size(); i++) threads.emplace_back([i] { shards[i]->io.run(); });
    shards[0]->io.run();
}
