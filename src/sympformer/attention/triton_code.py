"""What `kernels` runs on the GPU: one block of one head's queries or keys a program, in Triton.

With `x_ij = q_i·k_j` and `P_ij = exp(scale (x_ij - top_i)) / total_i`, a query gets the average
`o_i = Σ_j P_ij v_j` and the log-sum-exp `scale top_i + log total_i`; of their gradients, `g_i` and
`h_i`, come

    dv_j = Σ_i P_ij g_i                    dS_ij = P_ij (g_i·v_j - δ_i),   δ_i = g_i·o_i - h_i
    dq_i = scale Σ_j dS_ij k_j             dk_j = scale Σ_i dS_ij q_i

Multiplications for a query-key pair, keys of width d and values of width e: `d + e` forward (x, o);
`2d + e` for dq (x, g·v, dq) and `2d + 2e` for dk and dv (x, dv, g·v, dk), of which a single kernel
that adds up dq atomically would save `d + e`; sums in a fixed order are worth that here. Scores are
made once however wide the values are: these are cut into blocks of columns with an accumulator
each, all held at the same time. Blocks of pairs of which no query sees a key are skipped.

A row keeps the maximum of its bare products and the sum relative to it, not one log-sum-exp:
`exp(s - lse)` has the relative error eps·|lse|, while here the weight of a row that sees one key is
exactly 1. Products are subtracted before they are scaled: a compiler may fuse a scaling with the
subtraction in one kernel and not in another, and they would round differently.

Sizes in capitals are known at compile time: D, E widths of keys and values; ROWS, KEYS queries and
keys of a block; BLOCK_D ≥ D, BLOCK_E columns of a block; all but D and E are powers of two. Strides
are of batch, head and row; columns are contiguous.
"""

# Triton's types, where installed, know neither literals as compile-time constants nor its loops.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

LOG2_E = tl.constexpr(1.4426950408889634)  # the hardware has exp2


@triton.jit
def _head(base, strides, head, heads):
    """Where the matrix of one head begins; offsets may exceed 32 bits."""
    return base + tl.cast(head // heads, tl.int64) * strides[0] + (head % heads) * strides[1]


@triton.jit
def _pointers(base, stride, first, ROWS: tl.constexpr, column, COLUMNS: tl.constexpr):
    rows, columns = tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    return base + tl.cast(first, tl.int64) * stride + (rows[:, None] * stride + columns[None, :])


@triton.jit
def _load(
    base,
    stride,
    first,
    count,
    ROWS: tl.constexpr,
    column: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    RAGGED: tl.constexpr,
):
    """A block of a matrix of `count` rows and WIDTH columns, zero outside.

    All its rows are inside unless it is RAGGED.
    """
    pointers = _pointers(base, stride, first, ROWS, column, COLUMNS)
    columns = column + tl.arange(0, COLUMNS)
    if RAGGED:
        rows = first + tl.arange(0, ROWS)
        mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
        return tl.load(pointers, mask=mask, other=0.0)
    elif column + COLUMNS > WIDTH:
        return tl.load(pointers, mask=(columns < WIDTH)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def _store(block, base, stride, first, count, column: tl.constexpr, WIDTH: tl.constexpr):
    ROWS: tl.constexpr = block.shape[0]
    COLUMNS: tl.constexpr = block.shape[1]
    rows, columns = first + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    mask = (rows < count)[:, None] & (columns < WIDTH)[None, :]
    pointers = _pointers(base, stride, first, ROWS, column, COLUMNS)
    tl.store(pointers, block.to(base.dtype.element_ty), mask=mask)


@triton.jit
def _dot(a, b, total):
    """`total + a b`, without the rounding of float32 factors that is Triton's default."""
    return tl.dot(a, b, total, input_precision="ieee", out_dtype=total.dtype)


@triton.jit
def _key_range(first, n_query, n_key, ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr):
    """For a block of queries: the end of the key blocks that all of it sees, and of all keys."""
    if CAUSAL:
        seen = first + n_key - n_query + 1
        return seen // KEYS * KEYS, tl.minimum(seen - 1 + ROWS, n_key)
    else:
        return n_key // KEYS * KEYS, n_key


@triton.jit
def _sees(rows, key, n_query, n_key, CAUSAL: tl.constexpr):
    """Which queries see which keys; the queries are the last of the tokens."""
    if CAUSAL:
        return key <= rows + (n_key - n_query)
    else:
        return (key < n_key) & (rows >= 0)


@triton.jit
def forward(
    q,
    k,
    v,
    out,
    log_sum,
    top,
    inverse,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    heads,
    n_query,
    n_key,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """A block of queries: averages, log-sum-exps, `top` and `inverse`, which is 1 / total."""
    EXACT: tl.constexpr = log_sum.dtype.element_ty
    blocks = tl.cdiv(n_query, ROWS)
    head = tl.program_id(0) // blocks
    # Later queries see more keys: they start first.
    first = (blocks - 1 - tl.program_id(0) % blocks) * ROWS
    q, k = _head(q, q_strides, head, heads), _head(k, k_strides, head, heads)
    v, out = _head(v, v_strides, head, heads), _head(out, out_strides, head, heads)

    queries = _load(q, q_strides[2], first, n_query, ROWS, 0, BLOCK_D, D, True)
    rows = first + tl.arange(0, ROWS)
    highest = tl.full((ROWS,), float("-inf"), EXACT)
    total = tl.zeros((ROWS,), EXACT)
    sums = ()
    for _ in tl.static_range(0, E, BLOCK_E):
        sums += (tl.zeros((ROWS, BLOCK_E), EXACT),)
    whole, end = _key_range(first, n_query, n_key, ROWS, KEYS, CAUSAL)
    for edge in tl.static_range(2):  # the key blocks that all see, then those that need a mask
        for start in range(whole if edge else 0, end if edge else whole, KEYS):
            keys = _load(k, k_strides[2], start, n_key, KEYS, 0, BLOCK_D, D, edge == 1)
            x = _dot(queries, tl.trans(keys), tl.zeros((ROWS, KEYS), EXACT))
            if edge:
                key = start + tl.arange(0, KEYS)
                seen = _sees(rows[:, None], key[None, :], n_query, n_key, CAUSAL)
                x = tl.where(seen, x, float("-inf"))
            higher = tl.maximum(highest, tl.max(x, 1))
            p = tl.exp2((x - higher[:, None]) * (SCALE * LOG2_E))
            shrink = tl.exp2((highest - higher) * (SCALE * LOG2_E))
            highest = higher
            total = total * shrink + tl.sum(p, 1)
            p = p.to(v.dtype.element_ty)
            new = ()
            for e in tl.static_range(len(sums)):
                values = _load(
                    v, v_strides[2], start, n_key, KEYS, e * BLOCK_E, BLOCK_E, E, edge == 1
                )
                shrunk = sums[e] * shrink[:, None]
                new += (_dot(p, values, shrunk),)
            sums = new

    inside = rows < n_query
    row = tl.cast(head, tl.int64) * n_query + rows
    tl.store(log_sum + row, highest * SCALE + tl.log(total), mask=inside)
    tl.store(top + row, highest, mask=inside)
    tl.store(inverse + row, 1 / total, mask=inside)
    for e in tl.static_range(len(sums)):
        average = sums[e] / total[:, None]
        _store(average, out, out_strides[2], first, n_query, e * BLOCK_E, E)


@triton.jit
def backward_queries(
    q,
    k,
    v,
    out,
    g,
    h,
    top,
    inverse,
    delta,
    dq,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    g_strides,
    dq_strides,
    heads,
    n_query,
    n_key,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """A block of queries: `dq`, and δ for `backward_keys`."""
    EXACT: tl.constexpr = top.dtype.element_ty
    blocks = tl.cdiv(n_query, ROWS)
    head = tl.program_id(0) // blocks
    first = (blocks - 1 - tl.program_id(0) % blocks) * ROWS
    q, k = _head(q, q_strides, head, heads), _head(k, k_strides, head, heads)
    v, out = _head(v, v_strides, head, heads), _head(out, out_strides, head, heads)
    g, dq = _head(g, g_strides, head, heads), _head(dq, dq_strides, head, heads)

    rows = first + tl.arange(0, ROWS)
    inside = rows < n_query
    row = tl.cast(head, tl.int64) * n_query + rows
    highest = tl.load(top + row, mask=inside, other=0.0)
    share = tl.load(inverse + row, mask=inside, other=0.0)
    shift = -tl.load(h + row, mask=inside, other=0.0)
    queries = _load(q, q_strides[2], first, n_query, ROWS, 0, BLOCK_D, D, True)
    grads = ()
    for e in tl.static_range((E + BLOCK_E - 1) // BLOCK_E):
        grad = _load(g, g_strides[2], first, n_query, ROWS, e * BLOCK_E, BLOCK_E, E, True)
        average = _load(out, out_strides[2], first, n_query, ROWS, e * BLOCK_E, BLOCK_E, E, True)
        shift += tl.sum(grad.to(EXACT) * average.to(EXACT), 1)
        grads += (grad,)
    tl.store(delta + row, shift, mask=inside)

    dqs = tl.zeros((ROWS, BLOCK_D), EXACT)
    whole, end = _key_range(first, n_query, n_key, ROWS, KEYS, CAUSAL)
    for edge in tl.static_range(2):
        for start in range(whole if edge else 0, end if edge else whole, KEYS):
            keys = _load(k, k_strides[2], start, n_key, KEYS, 0, BLOCK_D, D, edge == 1)
            x = _dot(queries, tl.trans(keys), tl.zeros((ROWS, KEYS), EXACT))
            p = tl.exp2((x - highest[:, None]) * (SCALE * LOG2_E)) * share[:, None]
            if edge:
                key = start + tl.arange(0, KEYS)
                p = tl.where(_sees(rows[:, None], key[None, :], n_query, n_key, CAUSAL), p, 0.0)
            dp = tl.zeros((ROWS, KEYS), EXACT)
            for e in tl.static_range(len(grads)):
                values = _load(
                    v, v_strides[2], start, n_key, KEYS, e * BLOCK_E, BLOCK_E, E, edge == 1
                )
                dp = _dot(grads[e], tl.trans(values), dp)
            ds = p * (dp - shift[:, None])
            dqs = _dot(ds.to(k.dtype.element_ty), keys, dqs)
    _store(dqs * SCALE, dq, dq_strides[2], first, n_query, 0, D)


@triton.jit
def backward_keys(
    q,
    k,
    v,
    g,
    top,
    inverse,
    delta,
    dk,
    dv,
    q_strides,
    k_strides,
    v_strides,
    g_strides,
    dk_strides,
    dv_strides,
    heads,
    n_query,
    n_key,
    SCALE: tl.constexpr,
    CAUSAL: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """A block of keys: `dk` and `dv`. Matrices of pairs are transposed here, keys by queries."""
    EXACT: tl.constexpr = top.dtype.element_ty
    blocks = tl.cdiv(n_key, KEYS)
    head = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * KEYS
    q, k = _head(q, q_strides, head, heads), _head(k, k_strides, head, heads)
    v, g = _head(v, v_strides, head, heads), _head(g, g_strides, head, heads)
    dk, dv = _head(dk, dk_strides, head, heads), _head(dv, dv_strides, head, heads)

    keys = _load(k, k_strides[2], first, n_key, KEYS, 0, BLOCK_D, D, True)
    values, dvs = (), ()
    for e in tl.static_range((E + BLOCK_E - 1) // BLOCK_E):
        values += (_load(v, v_strides[2], first, n_key, KEYS, e * BLOCK_E, BLOCK_E, E, True),)
        dvs += (tl.zeros((KEYS, BLOCK_E), EXACT),)
    dks = tl.zeros((KEYS, BLOCK_D), EXACT)
    key = first + tl.arange(0, KEYS)
    begin, whole = 0, 0
    if CAUSAL:  # the first block that sees any of the keys, and the first that sees all
        begin = tl.maximum(first - (n_key - n_query), 0) // ROWS * ROWS
        whole = tl.cdiv(tl.maximum(first + KEYS - 1 - (n_key - n_query), 0), ROWS) * ROWS
        whole = tl.minimum(whole, tl.cdiv(n_query, ROWS) * ROWS)
    for edge in tl.static_range(2 if CAUSAL else 1):
        for start in range(begin if edge else whole, whole if edge else n_query, ROWS):
            rows = start + tl.arange(0, ROWS)
            inside = rows < n_query
            row = tl.cast(head, tl.int64) * n_query + rows
            highest = tl.load(top + row, mask=inside, other=0.0)
            share = tl.load(inverse + row, mask=inside, other=0.0)  # no weight outside
            shift = tl.load(delta + row, mask=inside, other=0.0)
            queries = _load(q, q_strides[2], start, n_query, ROWS, 0, BLOCK_D, D, True)
            if q.dtype.element_ty == EXACT:  # the very x of the forward pass, rounding included
                x = tl.trans(_dot(queries, tl.trans(keys), tl.zeros((ROWS, KEYS), EXACT)))
            else:  # faster: p and ds stay in the threads that need them
                x = _dot(keys, tl.trans(queries), tl.zeros((KEYS, ROWS), EXACT))
            p = tl.exp2((x - highest[None, :]) * (SCALE * LOG2_E)) * share[None, :]
            if edge:
                p = tl.where(_sees(rows[None, :], key[:, None], n_query, n_key, CAUSAL), p, 0.0)
            dp = tl.zeros((KEYS, ROWS), EXACT)
            new = ()
            for e in tl.static_range(len(values)):
                grad = _load(g, g_strides[2], start, n_query, ROWS, e * BLOCK_E, BLOCK_E, E, True)
                new += (_dot(p.to(grad.dtype), grad, dvs[e]),)
                dp = _dot(values[e], tl.trans(grad), dp)
            dvs = new
            ds = p * (dp - shift[None, :])
            dks = _dot(ds.to(q.dtype.element_ty), queries, dks)
    _store(dks * SCALE, dk, dk_strides[2], first, n_key, 0, D)
    for e in tl.static_range(len(dvs)):
        _store(dvs[e], dv, dv_strides[2], first, n_key, e * BLOCK_E, E)
