// Prefix sums and the delta rule token by token, and their gradients: `scan.py` compiles and calls
// this, `chunks.py` has the formulas. Of S_i = D_i S_{i-1} + k_i w_iᵀ no state is kept for the
// backward pass: what needs the gradient of the state is made from the last token to the first,
// then what needs the state from the first to the last. A state is worked on in blocks of columns,
// so that it lies in the nearest cache and what is summed over its rows in registers.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#ifdef __clang__
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif

// One row a token; none if `data` is null.
struct Rows {
    char* data;
    int64_t batch, head, token;  // strides in bytes
};

struct Scan {
    int64_t batch, heads, tokens, width, value_width, threads;
    int64_t factors;                      // of the decay of a token: none, 1, or `width`
    Rows q, k, beta, y, decay;            // arguments
    Rows read, errors;                    // results; errors are known in the backward pass
    Rows d_read, d_errors;                // their gradients
    Rows d_q, d_k, d_beta, d_y, d_decay;  // gradients of the arguments; that of log decay
    char *state, *d_state;                // before the first token, (batch · heads, width, value_width)
};

namespace {

constexpr int BYTES = 32, BLOCK = 4;  // of a vector; vectors in a block
constexpr int64_t CHUNK = 64;         // tokens over which the gradients of log decays are summed

template <class T>
struct Vector;
template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(BYTES), aligned(4), may_alias));
};
template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(BYTES), aligned(8), may_alias));
};

template <class T, class V>
T sum(const V& x) {
    typedef T Half __attribute__((vector_size(BYTES / 2)));
    Half low, high;
    std::memcpy(&low, &x, sizeof low);
    std::memcpy(&high, (const char*)&x + sizeof low, sizeof high);
    low += high;
    if constexpr (sizeof(T) == 4) return (low[0] + low[2]) + (low[1] + low[3]);
    return low[0] + low[1];
}

// One head of one element of the batch; N vectors from number `first` of a row on. D is the width of
// keys and values where it is known beforehand, else 0.
template <class T, int N, int D = 0>
struct Head {
    using V = typename Vector<T>::type;
    struct Row {
        V v[N];
    };
    const Scan& s;
    const int64_t b, h, first;
    const int64_t d = D ? D : s.width, e = D ? D : s.value_width;
    const bool solves = s.beta.data, reads = s.q.data, decays = s.factors;

    T* at(const Rows& rows, int64_t i) const {
        return rows.data ? (T*)(rows.data + b * rows.batch + h * rows.head + i * rows.token) : nullptr;
    }
    V* block(const Rows& rows, int64_t i) const {
        return rows.data ? (V*)(at(rows, i) + first) : nullptr;
    }
    T* of(char* states) const { return (T*)states + (b * s.heads + h) * d * e; }
    T factor(const T* decay, int64_t a) const { return decay[s.factors == 1 ? 0 : a]; }

    // What a token writes: its error times β, or its value.
    Row written(int64_t i) const {
        Row w;
        const V* error = block(solves ? s.errors : s.y, i);
        const T beta = solves ? *at(s.beta, i) : T(1);
        for (int j = 0; j < N; ++j) w.v[j] = beta * error[j];
        return w;
    }

    void forward(V* S) const {
        for (int64_t a = 0; a < d; ++a) std::memcpy(S + a * N, of(s.state) + a * e + first, sizeof(Row));
        for (int64_t i = 0; i < s.tokens; ++i) {
            const T *q = at(s.q, i), *k = at(s.k, i), *decay = at(s.decay, i);
            Row seen{}, read{};
            if (solves || decays)
                for (int64_t a = 0; a < d; ++a)
                    for (int j = 0; j < N; ++j) {
                        if (decays) S[a * N + j] *= factor(decay, a);
                        if (solves) seen.v[j] += k[a] * S[a * N + j];
                    }
            if (solves)
                for (int j = 0; j < N; ++j) block(s.errors, i)[j] = block(s.y, i)[j] - seen.v[j];
            const Row w = written(i);
            for (int64_t a = 0; a < d; ++a)
                for (int j = 0; j < N; ++j) {
                    S[a * N + j] += k[a] * w.v[j];
                    if (reads) read.v[j] += q[a] * S[a * N + j];
                }
            if (reads) std::memcpy(block(s.read, i), &read, sizeof read);
        }
    }

    // Gradients of a block of values, their share in those of strengths and of keys as they write.
    // G ends as the gradient of the first state; `ends` gets what it is after each chunk.
    void from_the_end(V* G, T* ends) const {
        std::memset(G, 0, d * sizeof(Row));
        for (int64_t i = s.tokens - 1; i >= 0; --i) {
            if (decays && (i + 1) % CHUNK == 0)
                for (int64_t a = 0; a < d; ++a)
                    std::memcpy(ends + (i / CHUNK * d + a) * e + first, G + a * N, sizeof(Row));
            const T *q = at(s.q, i), *k = at(s.k, i), *decay = at(s.decay, i);
            const V* d_read = block(s.d_read, i);
            const Row w = written(i);
            Row d_w{};
            T* d_k = at(s.d_k, i);
            for (int64_t a = 0; a < d; ++a) {
                V pulled{};
                for (int j = 0; j < N; ++j) {
                    if (d_read) G[a * N + j] += q[a] * d_read[j];
                    d_w.v[j] += k[a] * G[a * N + j];
                    pulled += w.v[j] * G[a * N + j];
                }
                d_k[a] = sum<T>(pulled) + (first ? d_k[a] : T(0));
            }
            if (solves) {
                const T beta = *at(s.beta, i);
                const V *error = block(s.errors, i), *d_error = block(s.d_errors, i);
                V pulled{};
                for (int j = 0; j < N; ++j) {
                    pulled += error[j] * d_w.v[j];
                    d_w.v[j] *= beta;
                    if (d_error) d_w.v[j] += d_error[j];
                }
                *at(s.d_beta, i) = sum<T>(pulled) + (first ? *at(s.d_beta, i) : T(0));
            }
            std::memcpy(block(s.d_y, i), &d_w, sizeof d_w);
            if (solves || decays)
                for (int64_t a = 0; a < d; ++a)
                    for (int j = 0; j < N; ++j) {
                        if (solves) G[a * N + j] -= k[a] * d_w.v[j];
                        if (decays) G[a * N + j] *= factor(decay, a);
                    }
        }
        for (int64_t a = 0; a < d; ++a) std::memcpy(of(s.d_state) + a * e + first, G + a * N, sizeof(Row));
    }

    // Gradients of a block of queries and of keys as they read, to those of keys, and of log decays.
    // S is transposed: a row of it is a column of the state.
    void from_the_start(V* S, const T* ends, V* steps) const {
        const T* state = of(s.state) + first * e;
        for (int64_t c = 0; c < e; ++c)
            for (int64_t a = 0; a < int64_t(sizeof(Row) / sizeof(T)); ++a) ((T*)(S + c * N))[a] = state[a * e + c];
        for (int64_t i = 0; i < s.tokens; ++i) {
            const T *d_read = at(s.d_read, i), *d_y = at(s.d_y, i), *error = at(solves ? s.errors : s.y, i);
            const T beta = solves ? *at(s.beta, i) : T(1);
            const V* k = block(s.k, i);
            Row left{}, d_q{}, d_k{};
            for (int j = 0; j < N && decays; ++j)
                left.v[j] = s.factors > 1 ? block(s.decay, i)[j] : V{} + *at(s.decay, i);
            for (int64_t c = 0; c < e; ++c) {
                V* row = S + c * N;
                for (int j = 0; j < N; ++j) {
                    if (decays) row[j] *= left.v[j];
                    if (solves) d_k.v[j] -= d_y[c] * row[j];
                    row[j] += beta * error[c] * k[j];
                    if (d_read) d_q.v[j] += d_read[c] * row[j];
                }
            }
            V* whole = block(s.d_k, i);
            if (decays) {
                // Of log decays summed up to here: what reads is as if multiplied by the exponential
                // of the sum, what writes as if divided by it.
                V* step = steps + i % CHUNK * N;
                for (int j = 0; j < N; ++j) step[j] = k[j] * (d_k.v[j] - whole[j]);
                for (int j = 0; j < N && d_read; ++j) step[j] += block(s.q, i)[j] * d_q.v[j];
            }
            for (int j = 0; j < N; ++j) whole[j] += d_k.v[j];
            if (d_read) std::memcpy(block(s.d_q, i), &d_q, sizeof d_q);
            if (decays && ((i + 1) % CHUNK == 0 || i + 1 == s.tokens)) of_decays(S, ends, steps, i);
        }
    }

    // Of a chunk that ends with token `last`: sums from its end on, and what the state hands on.
    void of_decays(const V* S, const T* ends, const V* steps, int64_t last) const {
        Row later{};
        if ((last + 1) % CHUNK == 0)
            for (int64_t c = 0; c < e; ++c)
                for (int64_t a = 0; a < int64_t(sizeof(Row) / sizeof(T)); ++a)
                    ((T*)&later)[a] += ((T*)(S + c * N))[a] * ends[(last / CHUNK * d + first + a) * e + c];
        for (int64_t i = last; i >= last / CHUNK * CHUNK; --i) {
            V all{};
            for (int j = 0; j < N; ++j) all += later.v[j] += steps[i % CHUNK * N + j];
            if (s.factors > 1)
                std::memcpy(block(s.d_decay, i), &later, sizeof later);
            else
                *at(s.d_decay, i) = sum<T>(all) + (first ? *at(s.d_decay, i) : T(0));
        }
    }
};

// `work` on each block of rows of `width` numbers, in the head that is made for its size.
template <class T, class Work>
void in_blocks(const Scan& s, int64_t b, int64_t h, int64_t width, Work work) {
    constexpr int count = BYTES / sizeof(T), narrow = 8;
    if (s.width == narrow && s.value_width == narrow) return work(Head<T, narrow / count, narrow>{s, b, h, 0});
    for (int64_t first = 0; first < width; first += BLOCK * count) {
        switch (std::min<int64_t>((width - first) / count, BLOCK)) {
            case 1: work(Head<T, 1>{s, b, h, first}); break;
            case 2: work(Head<T, 2>{s, b, h, first}); break;
            case 3: work(Head<T, 3>{s, b, h, first}); break;
            default: work(Head<T, BLOCK>{s, b, h, first});
        }
    }
}

// Whether there was memory for it. An exception must not leave a thread of a team.
template <class T>
bool run(const Scan& s, bool backward) {
    using V = typename Vector<T>::type;
    const int64_t most = std::max(s.width, s.value_width);
    std::atomic<bool> enough{true};
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<T> state, ends, steps;
        try {
            state.resize(BLOCK * BYTES / sizeof(T) * most);
            if (backward && s.factors) {
                ends.resize(s.tokens / CHUNK * s.width * s.value_width);
                steps.resize(CHUNK * BLOCK * BYTES / sizeof(T));
            }
        } catch (const std::bad_alloc&) {
            enough = false;
        }
        V* S = (V*)state.data();
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t each = 0; each < s.batch * s.heads; ++each) {
            const int64_t b = each / s.heads, h = each % s.heads;
            if (!enough) continue;
            if (!backward) {
                in_blocks<T>(s, b, h, s.value_width, [&](auto head) { head.forward(S); });
                continue;
            }
            in_blocks<T>(s, b, h, s.value_width, [&](auto head) { head.from_the_end(S, ends.data()); });
            in_blocks<T>(s, b, h, s.width, [&](auto head) { head.from_the_start(S, ends.data(), (V*)steps.data()); });
        }
    }
    return enough;
}

}  // namespace

extern "C" int sympformer_scan(const Scan* s, int64_t bytes, int64_t backward) {
    return bytes == 4 ? run<float>(*s, backward) : run<double>(*s, backward);
}
