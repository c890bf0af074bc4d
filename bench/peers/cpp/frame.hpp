// The frame that every peer speaks: [length u32][handle u32][body], big-endian, the length counting
// the handle and the body. Echo is 1/1, broadcast 1/2.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

constexpr uint32_t echo_handle = 1u << 16 | 1, cast_handle = 1u << 16 | 2;
constexpr size_t header = 8, max_frame = 16u << 20;

inline uint32_t big32(const char* p) {
    auto u = reinterpret_cast<const unsigned char*>(p);
    return uint32_t(u[0]) << 24 | uint32_t(u[1]) << 16 | uint32_t(u[2]) << 8 | u[3];
}

// answer appends the echoes of every whole frame in [p, p+n) to out and hands broadcasts to cast.
// It returns the bytes used, or -1 for a frame that closes the connection.
template <class Cast>
long answer(const char* p, size_t n, std::string& out, Cast cast) {
    size_t used = 0;
    while (n - used >= 4) {
        size_t len = big32(p + used);
        if (len < 4 || len > max_frame) return -1;
        if (n - used < 4 + len) break;
        switch (big32(p + used + 4)) {
            case echo_handle: out.append(p + used, 4 + len); break;
            case cast_handle: cast(p + used, 4 + len); break;
            default: return -1;
        }
        used += 4 + len;
    }
    return long(used);
}

struct options {
    std::string host = "127.0.0.1";
    int port = 0;
    int loops = int(std::thread::hardware_concurrency());
};

inline options parse(int argc, char** argv) {
    options o;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "-loops")) o.loops = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "-addr")) {
            std::string a = argv[i + 1];
            auto colon = a.rfind(':');
            o.host = a.substr(0, colon);
            o.port = atoi(a.c_str() + colon + 1);
        }
    }
    if (o.loops < 1) o.loops = 1;
    return o;
}
