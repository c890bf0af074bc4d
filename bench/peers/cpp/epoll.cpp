// Bare epoll: a thread a loop, a SO_REUSEPORT listener each, one read and one write a batch.
#include "frame.hpp"

#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>
#include <mutex>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

struct conn {
    int fd;
    bool armed = false;      // EPOLLOUT is set
    std::string held, unsent; // part of a frame; bytes that the socket did not take
};

struct loop {
    int ep = epoll_create1(0), listener = -1, wake = eventfd(0, EFD_NONBLOCK);
    std::unordered_map<int, std::unique_ptr<conn>> conns;
    std::string out;
    std::vector<char> buf = std::vector<char>(64 << 10);
    std::mutex mu;
    std::vector<std::shared_ptr<std::string>> casts; // guarded by mu

    void add(int fd) {
        epoll_event ev{};
        ev.events = EPOLLIN;
        ev.data.fd = fd;
        epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
    }
    void arm(conn& c, bool on) {
        if (c.armed == on) return;
        c.armed = on;
        epoll_event ev{};
        ev.events = EPOLLIN | (on ? unsigned(EPOLLOUT) : 0u);
        ev.data.fd = c.fd;
        epoll_ctl(ep, EPOLL_CTL_MOD, c.fd, &ev);
    }
    bool send(conn& c, const char* p, size_t n) {
        if (c.unsent.empty()) {
            ssize_t w = write(c.fd, p, n);
            if (w < 0 && errno != EAGAIN) return false;
            if (w > 0) p += w, n -= size_t(w);
        }
        if (n) c.unsent.append(p, n), arm(c, true);
        return true;
    }
    void drop(int fd) {
        conns.erase(fd);
        close(fd);
    }
    void write_all(const std::string& frame) {
        std::vector<int> bad;
        for (auto& [fd, c] : conns)
            if (!send(*c, frame.data(), frame.size())) bad.push_back(fd);
        for (int fd : bad) drop(fd);
    }
    void accept_all() {
        for (;;) {
            int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
            if (fd < 0) return;
            int one = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            auto c = std::make_unique<conn>();
            c->fd = fd;
            conns[fd] = std::move(c);
            add(fd);
        }
    }
    void run_casts() {
        uint64_t n;
        if (read(wake, &n, sizeof n) < 0) return;
        std::vector<std::shared_ptr<std::string>> all;
        {
            std::lock_guard<std::mutex> g(mu);
            all.swap(casts);
        }
        for (auto& f : all) write_all(*f);
    }
    void readable(conn& c, std::vector<loop>& loops);
    void run(std::vector<loop>& loops);
};

void post(std::vector<loop>& loops, const char* p, size_t n) {
    auto frame = std::make_shared<std::string>(p, n);
    for (auto& l : loops) {
        bool first;
        {
            std::lock_guard<std::mutex> g(l.mu);
            first = l.casts.empty();
            l.casts.push_back(frame);
        }
        uint64_t one = 1;
        if (first && write(l.wake, &one, sizeof one) < 0) perror("eventfd");
    }
}

void loop::readable(conn& c, std::vector<loop>& loops) {
    int fd = c.fd;
    ssize_t n = read(fd, buf.data(), buf.size());
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return drop(fd);
    const char* p = buf.data();
    size_t have = size_t(n);
    if (!c.held.empty()) {
        c.held.append(p, have);
        p = c.held.data();
        have = c.held.size();
    }
    out.clear();
    long used = answer(p, have, out, [&](const char* f, size_t k) { post(loops, f, k); });
    bool ok = out.empty() || send(c, out.data(), out.size());
    if (used < 0 || !ok) return drop(fd);
    if (!c.held.empty()) c.held.erase(0, size_t(used));
    else if (size_t(used) < have) c.held.assign(p + used, have - size_t(used));
}

void loop::run(std::vector<loop>& loops) {
    add(listener);
    add(wake);
    std::vector<epoll_event> events(512);
    for (;;) {
        int n = epoll_wait(ep, events.data(), int(events.size()), -1);
        for (int i = 0; i < n; i++) {
            int fd = events[size_t(i)].data.fd;
            if (fd == listener) { accept_all(); continue; }
            if (fd == wake) { run_casts(); continue; }
            auto it = conns.find(fd);
            if (it == conns.end()) continue;
            conn& c = *it->second;
            if (events[size_t(i)].events & EPOLLOUT) {
                std::string rest;
                rest.swap(c.unsent);
                if (!send(c, rest.data(), rest.size())) { drop(fd); continue; }
                if (c.unsent.empty()) arm(c, false);
            }
            if (events[size_t(i)].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c, loops);
        }
    }
}

int listen_on(const options& o, int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(uint16_t(port));
    inet_pton(AF_INET, o.host.c_str(), &a.sin_addr);
    if (bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof a) || listen(fd, 4096)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char** argv) {
    signal(SIGPIPE, SIG_IGN);
    options o = parse(argc, argv);
    std::vector<loop> loops(size_t(o.loops));
    int port = o.port;
    for (auto& l : loops) {
        l.listener = listen_on(o, port);
        sockaddr_in a{};
        socklen_t len = sizeof a;
        getsockname(l.listener, reinterpret_cast<sockaddr*>(&a), &len);
        port = ntohs(a.sin_port);
    }
    printf("ready tcp://%s:%d\n", o.host.c_str(), port);
    fflush(stdout);
    std::vector<std::thread> threads;
    for (size_t i = 1; i < loops.size(); i++) threads.emplace_back([&, i] { loops[i].run(loops); });
    loops[0].run(loops);
}
