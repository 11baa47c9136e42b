"""Oracles: slow, obvious loops in float64, written from the papers, that tests compare with."""

import functools
import itertools
import math

import numpy as np

# --- evaluation: ranking with ties, AUC, reference recommenders --------------------------------


def pairwise_auc(label, score):
    """Share of (positive, negative) pairs in the right order; an equal pair counts one half."""
    wins = [
        (p > n) + 0.5 * (p == n)
        for p, is_positive in zip(score, label, strict=True)
        if is_positive
        for n, other_is_positive in zip(score, label, strict=True)
        if not other_is_positive
    ]
    return sum(wins) / len(wins)


def mean_ranking_over_orders(scores, valid, k):
    """Mean HR@k and NDCG@k of item 0 over every list whose scores never increase."""
    items = [i for i in range(len(scores)) if i == 0 or valid[i]]
    hits, gains, ideal = [], [], 1 / math.log2(2)
    for order in itertools.permutations(items):
        if any(scores[a] < scores[b] for a, b in itertools.pairwise(order)):
            continue
        relevance = [1 if item == 0 else 0 for item in order[:k]]
        dcg = sum(rel / math.log2(place + 2) for place, rel in enumerate(relevance))
        hits.append(sum(relevance))
        gains.append(dcg / ideal)
    return sum(hits) / len(hits), sum(gains) / len(gains)


def least_squares(design, target, l2):
    """argmin |target - design w|^2 + l2 |w|^2, as ordinary least squares on an extended system."""
    rows = np.vstack([design, math.sqrt(l2) * np.eye(design.shape[1])])
    return np.linalg.lstsq(rows, np.r_[target, np.zeros(design.shape[1])], rcond=None)[0]


def ease_scores(positives, l2):
    """EASE item by item: ridge regression of a column on all the others (no closed form)."""
    scores = np.zeros(positives.shape)
    for j in range(positives.shape[1]):
        others = [i for i in range(positives.shape[1]) if i != j]
        scores[:, j] = positives[:, others] @ least_squares(
            positives[:, others], positives[:, j], l2
        )
    return scores


def bias_scores(user, item, rating, num_users, num_items, l2):
    """User and item biases by least squares on one-hot columns, one row per rating."""
    design = np.zeros((len(rating), num_users + num_items))
    for n in range(len(rating)):
        design[n, user[n]] = 1
        design[n, num_users + item[n]] = 1
    mean = sum(rating) / len(rating)
    bias = least_squares(design, np.asarray(rating) - mean, l2)
    return [
        [mean + bias[u] + bias[num_users + i] for i in range(num_items)] for u in range(num_users)
    ]


def item_knn_scores(users_of, num_users, neighbours, shrinkage):
    """ItemKNN over sets: `users_of[i]` is the set of users with a positive interaction with i."""

    def similarity(i, j):
        norm = math.sqrt(len(users_of[i]) * len(users_of[j])) + shrinkage
        return len(users_of[i] & users_of[j]) / norm if norm else 0.0

    items = range(len(users_of))
    scores = np.zeros((num_users, len(users_of)))
    for j in items:
        others = sorted((i for i in items if i != j), key=lambda i: (-similarity(i, j), i))
        for i in others[:neighbours]:
            for u in users_of[i]:
                scores[u, j] += similarity(i, j)
    return scores


def ials_objective(pairs, users, items, unobserved_weight, l2, l2_exponent):
    """The objective of iALS over every user and item, one at a time; `pairs` is a set."""
    total = 0.0
    for u, w in enumerate(users):
        for i, h in enumerate(items):
            score = sum(a * b for a, b in zip(w, h, strict=True))
            total += unobserved_weight * score**2 + ((u, i) in pairs) * (score - 1) ** 2
    for side, own, other in ((0, users, items), (1, items, users)):
        for k, vector in enumerate(own):
            count = sum(pair[side] == k for pair in pairs) + unobserved_weight * len(other)
            total += l2 * count**l2_exponent * sum(x * x for x in vector)
    return total


def markov_scores(events, num_users, num_items, smoothing):
    """The chain over events (user, item) in the order in which they happened."""
    last, after = {}, {}
    for user, item in events:
        if user in last:
            after.setdefault(last[user], []).append(item)
        last[user] = item
    share = [sum(i == k for _, i in events) / len(events) for k in range(num_items)]
    scores = []
    for user in range(num_users):
        seen = after.get(last.get(user), [])
        prior = smoothing if user in last else 1.0
        scores.append(
            [(seen.count(k) + prior * share[k]) / (len(seen) + prior) for k in range(num_items)]
        )
    return scores


# --- losses and metrics of rows ----------------------------------------------------------------


def softmax(logits):
    exps = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exps) for e in exps]


def row_losses(spec, logits, label, session=None):
    """The loss of each row before any mean; logits are numbers, or lists of numbers."""
    losses = []
    for i, (z, y) in enumerate(zip(logits, label, strict=True)):
        name = spec["name"]
        if name == "l2":
            losses.append((z - y) ** 2)
        elif name == "binary_cross_entropy":
            s = spec["label_smoothing"]
            p, y = 1 / (1 + math.exp(-z)), y * (1 - s) + s / 2
            losses.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
        elif name == "binary_focal":
            p, a, g = 1 / (1 + math.exp(-z)), spec["alpha"], spec["gamma"]
            if y:
                losses.append(-a * (1 - p) ** g * math.log(p))
            else:
                losses.append(-(1 - a) * p**g * math.log(1 - p))
        elif name == "softmax_cross_entropy":
            s, p = spec["label_smoothing"], softmax(z)
            target = [(1 - s) * (k == y) + s / len(z) for k in range(len(z))]
            losses.append(-sum(t * math.log(q) for t, q in zip(target, p, strict=True)))
        else:
            y = int(y)
            competing = [z[y]] + [
                other[y]
                for j, other in enumerate(logits)
                if session[j] == session[i] and label[j] != y
            ]
            a = spec["alpha"]
            calibration, contrast = -math.log(softmax(z)[y]), -math.log(softmax(competing)[0])
            losses.append(a * calibration + (1 - a) * contrast)
    return losses


def weighted_mean(values, weights):
    total = sum(weights)
    return sum(w * v for w, v in zip(weights, values, strict=True)) / total if total else 0.0


def binned_auc(label, probability, thresholds):
    """Trapezoids under the ROC points of evenly spaced thresholds; 0/0 is 0."""
    points = []
    for k in range(thresholds):
        rates = []
        for wanted in (0, 1):
            own = [p for p, y in zip(probability, label, strict=True) if y == wanted]
            reached = sum(p >= k / (thresholds - 1) for p in own)
            rates.append(reached / len(own) if own else 0.0)
        points.append(tuple(rates))
    points.sort()
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def grouped(group, *columns):
    """The columns of each group, as lists, in the order of the groups' ids."""
    for wanted in sorted(set(group)):
        rows = [i for i, g in enumerate(group) if g == wanted]
        yield [[column[i] for i in rows] for column in columns]


def grouped_auc(label, score, group):
    """Mean of `pairwise_auc` over the groups with both classes, and how many those are."""
    aucs = [pairwise_auc(y, s) for y, s in grouped(group, label, score) if len(set(y)) == 2]
    return (sum(aucs) / len(aucs) if aucs else None), len(aucs)


def concordant(target, predicted):
    """How many pairs stand in the same order, of how many."""
    pairs = list(itertools.combinations(zip(target, predicted, strict=True), 2))
    return sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs)


def grouped_xauc(target, predicted, group):
    """XAUC of all pairs of each group of two rows or more, weighted by its rows."""
    total = rows = 0
    for t, p in grouped(group, target, predicted):
        if len(t) > 1:
            right, pairs = concordant(t, p)
            total, rows = total + len(t) * right / pairs, rows + len(t)
    return total / rows if rows else None


def accuracy(label, probability, threshold, top_k):
    """Share of rows whose class is predicted; `probability` holds numbers, or lists of numbers."""
    right = 0
    for y, p in zip(label, probability, strict=True):
        if isinstance(p, float):
            right += (p > threshold) == y
        else:
            right += y in sorted(range(len(p)), key=lambda k: -p[k])[:top_k]  # a stable sort
    return right / len(label)


def normalized_entropy(label, probability, eta):
    """Cross-entropy over the entropy of the share of positives."""

    def log(x):
        return max(math.log(x), -100.0) if x else -100.0

    entropy = -sum(log(p if y else 1 - p) for y, p in zip(label, probability, strict=True))
    fewer = min(sum(label), len(label) - sum(label))
    share = max(fewer / len(label), eta)
    baseline = fewer * math.log(share) + (len(label) - fewer) * math.log1p(-share)
    return entropy / -baseline


# --- models: views of a batch, layers, logits --------------------------------------------------


def pooled(rows, combiner, dim):
    """Mean, sum or maximum of a list of vectors, component by component; zero for no vectors."""
    if not rows:
        return np.zeros(dim)
    totals = [sum(row[d] for row in rows) for d in range(dim)]
    if combiner == "mean":
        return np.array([total / len(rows) for total in totals])
    return np.array(totals if combiner == "sum" else [max(r[d] for r in rows) for d in range(dim)])


def row_ids(field, sparse_ids, sequences):
    """The table rows that one example refers to in one field; padding refers to none.

    `sparse_ids` gives a sparse field's id, `sequences` a sequence's padded ids and its length.
    """
    if field.feature_type == "sparse":
        ids = [sparse_ids[field.name]]
    else:
        padded, length = sequences[field.name]
        ids = padded[:length]
    return [i for i in ids if i != (-1 if field.padding_idx is None else field.padding_idx)]


def examples(schema, inputs):
    """One (sparse ids, dense values, sequences) per row of `inputs`, each a dict by field name.

    The values of a dense field are an array of its `value_dim` numbers.
    """
    columns = dense_columns(schema)
    for b in range(len(inputs.sparse)):
        yield (
            {f.name: int(inputs.sparse[b, k]) for k, f in enumerate(schema.sparse_fields)},
            {name: inputs.dense[b, place].double().numpy() for name, place in columns.items()},
            {
                f.name: (inputs.sequence_ids[k][b].tolist(), int(inputs.sequence_lengths[k][b]))
                for k, f in enumerate(schema.sequence_fields)
            },
        )


def dense_columns(schema):
    """Which columns of `inputs.dense` each dense field has, as lists."""
    columns, start = {}, 0
    for field in schema.dense_fields:
        columns[field.name] = list(range(start, start + field.value_dim))
        start += field.value_dim
    return columns


def piecewise_linear(x, edges):
    """How full each bin is that a number passes on its way up from the first edge to x, over
    the root of the number of bins."""
    encoding = []
    for low, high in itertools.pairwise(edges):
        if x >= high:
            encoding.append(1.0)
        elif x <= low:
            encoding.append(0.0)
        else:
            encoding.append((x - low) / (high - low))
    return np.array(encoding) / np.sqrt(len(encoding))


def periodic(x, frequencies):
    """Sines of 2 pi c x for all frequencies c, then their cosines."""
    angles = [2 * math.pi * c * x for c in frequencies]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def dense_vector(field, values, weights):
    """The vector of a field's numbers (value_dim,): `vectors of`, or `map of` and `bias of`.

    A periodic field has `frequencies of <field>` (value_dim, K) as well.
    """
    name = field.name
    if field.dense_embedding == "linear":
        return values @ weights[f"vectors of {name}"]
    if field.dense_embedding == "piecewise":
        encoding = np.concatenate([piecewise_linear(x, field.edges) for x in values])
        return encoding @ weights[f"map of {name}"] + weights[f"bias of {name}"]
    own = weights[f"frequencies of {name}"]
    encoding = np.concatenate([periodic(x, c) for x, c in zip(values, own, strict=True)])
    return np.maximum(encoding @ weights[f"map of {name}"] + weights[f"bias of {name}"], 0.0)


def feature_views(schema, inputs, weights, fm_embedding_dim):
    """first_order (B,), field_embeddings (B, F, D) and flat_embeddings (B, total), row by row.

    `weights` has float64 arrays: `<table>` (rows, dim), `<table>_wide` (rows, 1), where fields
    with one `embedding_name` read the table of that name,
    `vectors of <field>` (value_dim, dim), `projection of <field>` (D, dim), `dense_first_order`
    (columns of dense,), those of `dense_vector`, and `bins of <field>` (value_dim, bins).
    """
    first_order, field_embeddings, flat_embeddings = [], [], []
    for sparse_ids, values, sequences in examples(schema, inputs):
        linear, aligned, own, raw = 0.0, [], [], []
        for field in schema.fields.values():
            if field.feature_type == "dense":
                places = dense_columns(schema)[field.name]
                if field.dense_embedding == "piecewise":
                    for x, bins in zip(
                        values[field.name], weights[f"bins of {field.name}"], strict=True
                    ):
                        linear += bins @ piecewise_linear(x, field.edges)
                else:
                    linear += weights["dense_first_order"][places] @ values[field.name]
                if field.dense_embedding == "none":
                    raw.extend(values[field.name])
                    continue
                vector = dense_vector(field, values[field.name], weights)
            else:
                ids = row_ids(field, sparse_ids, sequences)
                combiner = "sum" if field.feature_type == "sparse" else field.combiner
                table = weights[field.embedding_name]
                wide = weights[f"{field.embedding_name}_wide"]
                vector = pooled([table[i] for i in ids], combiner, field.embedding_dim)
                linear += pooled([wide[i] for i in ids], combiner, 1)[0]
            own.extend(vector)
            if field.embedding_dim != fm_embedding_dim:
                vector = weights[f"projection of {field.name}"] @ vector
            aligned.append(vector)
        first_order.append(linear)
        field_embeddings.append(aligned)
        flat_embeddings.append([*own, *raw])
    return np.array(first_order), np.array(field_embeddings), np.array(flat_embeddings)


def group_views(schema, inputs, weights, groups, fm_embedding_dim):
    """Per row of `inputs` a dict by group of lists of vectors, one per field of the group.

    `weights` as in `feature_views`, with `<table>_wide` (rows, w).
    """
    views = []
    for sparse_ids, values, sequences in examples(schema, inputs):
        view = {group: [] for group in groups}
        for group, names in groups.items():
            for field in (schema.fields[name] for name in names):
                if field.feature_type == "dense":
                    vector = values[field.name]
                    if field.dense_embedding != "none":
                        vector = dense_vector(field, vector, weights)
                else:
                    name = field.embedding_name + ("_wide" if group == "wide" else "")
                    rows = [weights[name][i] for i in row_ids(field, sparse_ids, sequences)]
                    combiner = "sum" if field.feature_type == "sparse" else field.combiner
                    vector = pooled(rows, combiner, weights[name].shape[1])
                if group == "fm" and len(vector) != fm_embedding_dim:
                    vector = weights[f"projection of {field.name}"] @ vector
                view[group].append(vector)
        views.append(view)
    return views


def l2_of_batch(schema, inputs, weights, rate):
    """rate / 2 * |row|^2 over the distinct rows that a batch refers to, first-order rows too."""
    touched = set()
    for sparse_ids, _, sequences in examples(schema, inputs):
        for field in (*schema.sparse_fields, *schema.sequence_fields):
            for i in row_ids(field, sparse_ids, sequences):
                name = field.embedding_name
                touched |= {(name, i), (f"{name}_wide", i)}
    return rate / 2 * sum(sum(x * x for x in weights[table][i]) for table, i in touched)


def factorization_machine(fields):
    """All pairs of one row's field vectors (F, D), multiplied per dimension and added, (D,)."""
    return np.array(
        [
            sum(a[d] * b[d] for a, b in itertools.combinations(fields, 2))
            for d in range(len(fields[0]))
        ]
    )


def variational_dropout(x, logits, dims, u=None, eps=None):
    """Rows (B, total) of fields of these dims, each times what is left of it.

    With u (B, F) as in training, else as in evaluation; `logits` are those of dropping a field.
    """
    result = np.array(x, dtype=np.float64)
    for b in range(len(result)):
        start = 0
        for f, dim in enumerate(dims):
            drop = 1 / (1 + math.exp(-logits[f]))
            if u is not None:
                odds = math.log(drop + eps) - math.log(1 - drop + eps)
                odds += math.log(u[b][f] + eps) - math.log(1 - u[b][f] + eps)
                drop = 1 / (1 + math.exp(-odds / 0.1))
            for d in range(start, start + dim):
                result[b, d] *= 1 - drop
            start += dim
    return result


def cin(fields, filters, split_half, biases=None):
    """CIN of one row's field vectors (F, D); `filters[k][h][i][j]` weighs map i with field j.

    `biases[k][h]` is added to every dimension of a map.
    """
    fields = np.asarray(fields)
    dims, maps, output = range(fields.shape[1]), fields, []
    for k, layer in enumerate(filters):
        new = np.zeros((len(layer), fields.shape[1]))
        for h in range(len(layer)):
            new[h] += 0.0 if biases is None else biases[k][h]
            for i in range(len(maps)):
                for j in range(len(fields)):
                    for d in dims:
                        new[h, d] += layer[h][i][j] * maps[i][d] * fields[j][d]
        maps = kept = list(new)
        if split_half and k < len(filters) - 1:
            maps, kept = kept[: len(kept) // 2], kept[len(kept) // 2 :]
        output += [sum(row[d] for d in dims) for row in kept]
    return np.array(output)


def field_norm(x, dims, scale, shift):
    """Vectors end to end, (n,): each has mean 0 and variance 1, but those of one number."""
    result, start = [], 0
    for dim in dims:
        place = slice(start, start + dim)
        if dim > 1:
            result.extend(layer_norm(x[place], scale[place], shift[place]))
        else:
            result.append(x[start] * scale[start] + shift[start])
        start += dim
    return np.array(result)


def mask_block(x, embedding, weights):
    """One row: ReLU(LN(W (m * x) + b)) with m = W_2 ReLU(W_1 e + b_1) + b_2.

    `weights` has W_1 and b_1 as `aggregation`, W_2 and b_2 as `mask`, W and b as `hidden`, and
    `norm` (scale, shift) if there is one.
    """
    (w1, b1), (w2, b2), (w, b) = (weights[name] for name in ("aggregation", "mask", "hidden"))
    mask = w2 @ np.maximum(w1 @ embedding + b1, 0.0) + b2
    hidden = w @ (mask * x) + b
    if "norm" in weights:
        hidden = np.array(layer_norm(hidden, *weights["norm"]))
    return np.maximum(hidden, 0.0)


def bilinear(x, y, weight):
    """x_h^T W_hc y_h of one row, (heads, outputs), of weights (heads, outputs, rows, columns)."""
    heads, outputs, rows, columns = weight.shape
    result = np.zeros((heads, outputs))
    for h in range(heads):
        for c in range(outputs):
            for i in range(rows):
                for j in range(columns):
                    result[h, c] += x[h * rows + i] * weight[h, c, i, j] * y[h * columns + j]
    return result


def feature_gate(x, context, layers, output):
    """x * 2 sigmoid(W mlp(context) + b) of one row; `output` is (W, b)."""
    weight, bias = output
    z = weight @ mlp(context, layers, "relu") + bias
    return np.array([a * 2 / (1 + math.exp(-b)) for a, b in zip(x, z, strict=True)])


def factorized_block(x, layers, combine, activation):
    """One row through h = W x + b in halves, with norms as in `mlp`, in evaluation mode."""
    for layer in layers:
        h = layer["weight"] @ x + layer["bias"]
        half = len(h) // 2
        second, products = list(h[:half]), [a * b for a, b in zip(h[:half], h[half:], strict=True)]
        x = np.array(second + products if combine == "concat" else np.add(second, products))
        rest = {key: layer[key] for key in ("batch_norm", "layer_norm") if key in layer}
        x = mlp(x, [{"weight": np.eye(len(x)), **rest}], activation)
    return x


def field_gates(fields, weight, bias):
    """One row's vectors (F, D), each number times a linear map of that number of all fields."""
    gated = np.zeros_like(fields)
    for i in range(len(fields)):
        for d in range(fields.shape[1]):
            gate = bias[i] + sum(weight[i, j] * fields[j, d] for j in range(len(fields)))
            gated[i, d] = fields[i, d] * gate
    return gated.reshape(-1)


def pairwise_dots(fields):
    """<x_i, x_j> of one row's vectors, i < j, row by row of the upper triangle."""
    return np.array(
        [
            sum(a * b for a, b in zip(fields[i], fields[j], strict=True))
            for i in range(len(fields))
            for j in range(i + 1, len(fields))
        ]
    )


def wukong_layer(fields, weights):
    """One row's vectors (N, D) through LN(concat(FMB, LCB) + residual), (N', D).

    `weights`: Y transposed as `compress` (K, N), W_L as `linear` (L, N), `residual` (N', N) or
    None, `products_norm` and `norm` (scale, shift), `mlp` layers, `output` (W, b).
    """
    dim = fields.shape[1]
    products = []
    for vector in fields:
        for column in weights["compress"]:  # <x_n, sum_m Y_mk x_m>
            mixed = sum(y * other for y, other in zip(column, fields, strict=True))
            products.append(vector @ mixed)
    products = layer_norm(products, *weights["products_norm"])
    weight, bias = weights["output"]
    flat = weight @ mlp(products, weights["mlp"], "relu") + bias
    rows = [flat[start : start + dim] for start in range(0, len(flat), dim)]
    rows += [sum(w * v for w, v in zip(row, fields, strict=True)) for row in weights["linear"]]
    result = []
    for n, row in enumerate(rows):
        residual = fields[n]
        if weights["residual"] is not None:
            mixing = weights["residual"][n]
            residual = sum(w * v for w, v in zip(mixing, fields, strict=True))
        result.append(layer_norm(row + residual, *weights["norm"]))
    return np.array(result)


def softplus(x):
    return math.log1p(math.exp(x))


ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "none": lambda x: x,
    "": lambda x: x,
    "nn.ReLU": lambda x: max(x, 0.0),
    "ReLU(inplace=True)": lambda x: max(x, 0.0),
    "nn.CELU(alpha=2)": lambda x: x if x > 0 else 2 * (math.exp(x / 2) - 1),
    "ELU(alpha=0.5)": lambda x: x if x > 0 else 0.5 * (math.exp(x) - 1),
    "nn.GELU": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "nn.GELU(approximate='tanh')": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "nn.Hardshrink(lambd=0.1)": lambda x: x if abs(x) > 0.1 else 0.0,
    "nn.Hardsigmoid": lambda x: min(max(x + 3, 0), 6) / 6,
    "nn.Hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "nn.Hardtanh(min_val=-0.1, max_val=0.2)": lambda x: min(max(x, -0.1), 0.2),
    "nn.Identity": lambda x: x,
    "torch.nn.LeakyReLU(negative_slope=0.3)": lambda x: x if x > 0 else 0.3 * x,
    "nn.LogSigmoid": lambda x: -softplus(-x),
    "nn.Mish": lambda x: x * math.tanh(softplus(x)),
    "nn.PReLU(init=0.1)": lambda x: x if x > 0 else 0.1 * x,
    "nn.RReLU(lower=0.1, upper=0.3)": lambda x: x if x > 0 else 0.2 * x,  # not in training
    "nn.ReLU6": lambda x: min(max(x, 0.0), 6.0),
    "SELU": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "nn.SiLU()": lambda x: x / (1 + math.exp(-x)),
    "nn.Sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "nn.Softplus(beta=2, threshold=20)": lambda x: softplus(2 * x) / 2,
    "nn.Softshrink(lambd=0.1)": lambda x: math.copysign(max(abs(x) - 0.1, 0.0), x),
    "nn.Softsign": lambda x: x / (1 + abs(x)),
    "nn.Tanh": math.tanh,
    "nn.Tanhshrink": lambda x: x - math.tanh(x),
    "nn.Threshold(threshold=0.1, value=-2)": lambda x: x if x > 0.1 else -2.0,
}


def dice(x, mean, variance, alpha):
    """One row, with statistics and slopes by unit."""
    result = []
    for value, m, v, a in zip(x, mean, variance, alpha, strict=True):
        p = 1 / (1 + math.exp(-(value - m) / math.sqrt(v + 1e-5)))
        result.append(a * (1 - p) * value + p * value)
    return result


def layer_norm(x, scale, shift, eps=1e-5):
    """Mean 0 and (biased) variance 1 over one vector, then scale and shift."""
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return [
        (value - mean) / math.sqrt(variance + eps) * a + b
        for value, a, b in zip(x, scale, shift, strict=True)
    ]


def mlp(x, layers, activation):
    """One row through layers of {weight, bias?, batch_norm?, layer_norm?, dice?}, in evaluation
    mode.

    `batch_norm` is (mean, variance, scale, shift), `layer_norm` (scale, shift), and `dice`, in
    the place of the activation, (mean, variance, alpha).
    """
    for layer in layers:
        bias = layer.get("bias", np.zeros(len(layer["weight"])))
        x = [
            sum(w * value for w, value in zip(row, x, strict=True)) + b
            for row, b in zip(layer["weight"], bias, strict=True)
        ]
        if "batch_norm" in layer:
            x = [
                (value - mean) / math.sqrt(variance + 1e-5) * scale + shift
                for value, mean, variance, scale, shift in zip(x, *layer["batch_norm"], strict=True)
            ]
        if "layer_norm" in layer:
            x = layer_norm(x, *layer["layer_norm"])
        if "dice" in layer:
            x = dice(x, *layer["dice"])
        else:
            x = [ACTIVATIONS[activation](value) for value in x]
    return np.array(x)


def _scored(parts, layers, activation, weight, bias):
    """Linear(MLP(parts end to end))."""
    hidden = mlp(np.concatenate(parts), layers, activation)
    return sum(w * h for w, h in zip(weight, hidden, strict=True)) + bias


def _widened(query, sequence):
    return np.concatenate([query, np.zeros(sequence.shape[1] - len(query))])


def din(query, sequence, counts, layers, activation, weight, bias, softmax_of_scores):
    """One row: query (Dq,), sequence (L, Ds) and which of its positions count."""
    q = _widened(query, sequence)
    events = [s for s, counted in zip(sequence, counts, strict=True) if counted]
    scores = [_scored([q, s, q - s, q * s], layers, activation, weight, bias) for s in events]
    if softmax_of_scores and scores:
        scores = softmax(scores)
    total = np.zeros(sequence.shape[1])
    for a, s in zip(scores, events, strict=True):
        total = total + a * s
    return total


def simple_attention(query, sequence, counts):
    """One row, as `din`."""
    q = _widened(query, sequence)
    events = [s for s, counted in zip(sequence, counts, strict=True) if counted]
    if not events:
        return np.zeros(sequence.shape[1])
    weights = softmax([sum(a * b for a, b in zip(q, s, strict=True)) for s in events])
    return sum(w * s for w, s in zip(weights, events, strict=True))


def multi_window_din(
    query, sequence, counts, layers, activation, weight, bias, slope, windows, newest
):
    """One row, as `din`; windows take so many events each, from the newest on."""
    q = _widened(query, sequence)
    events = [s for s, counted in zip(sequence, counts, strict=True) if counted]
    if newest == "last":
        events.reverse()
    result = []
    for window in windows:
        inside, events = events[:window], events[window:]
        total = np.zeros(len(q))
        for s in inside:
            a = _scored([s, q * s, q], layers, activation, weight, bias)
            total = total + (a if a > 0 else slope * a) * s
        result.extend(total / max(len(inside), 1))
    return np.array([*result, *q])


def mean_self_attention(sequence, counts, maps, num_heads):
    """One row, as `din`. `maps` has (weight, bias) of query, key, value, then of the same inside
    the attention, and of its output."""
    events = [s for s, counted in zip(sequence, counts, strict=True) if counted]
    width = len(maps["output"][1])
    if not events:
        return np.zeros(width)

    def mapped(name, x):
        weight, bias = maps[name]
        return weight @ x + bias

    q, k, v = (
        [mapped(f"inner {name}", mapped(name, s)) for s in events]
        for name in ("query", "key", "value")
    )
    size, total = width // num_heads, np.zeros(width)
    for t in range(len(events)):
        attended = np.zeros(width)
        for head in range(num_heads):
            own = slice(head * size, (head + 1) * size)
            weights = softmax([q[t][own] @ key[own] / math.sqrt(size) for key in k])
            for w, value in zip(weights, v, strict=True):
                attended[own] += w * value[own]
        total += maps["output"][0] @ attended + maps["output"][1]
    return total / len(events)


def field_self_attention(fields, layers, num_heads, scale=True, norm="after", identity=False):
    """One row's field vectors (F, D) through layers of {query, key, value, residual?, norm?}.

    `norm` stands `after` or `before` the ReLU. With `identity` a layer without `residual` adds
    its input.
    """
    for layer in layers:
        attention_dim = len(layer["query"])
        size = attention_dim // num_heads
        new = []
        for m in range(len(fields)):
            heads = []
            for h in range(num_heads):
                rows = range(h * size, (h + 1) * size)
                query = [layer["query"][r] @ fields[m] for r in rows]
                scores = []
                for other in fields:
                    key = [layer["key"][r] @ other for r in rows]
                    scores.append(sum(q * k for q, k in zip(query, key, strict=True)))
                exps = [math.exp(score / (math.sqrt(size) if scale else 1)) for score in scores]
                for r in rows:
                    heads.append(
                        sum(
                            e / sum(exps) * (layer["value"][r] @ other)
                            for e, other in zip(exps, fields, strict=True)
                        )
                    )
            if "residual" in layer:
                heads = [x + layer["residual"][r] @ fields[m] for r, x in enumerate(heads)]
            elif identity:
                heads = [x + own for x, own in zip(heads, fields[m], strict=True)]
            if norm == "before":
                heads = layer_norm(heads, *layer["norm"])
            heads = [max(x, 0.0) for x in heads]
            if norm == "after":
                heads = layer_norm(heads, *layer["norm"])
            new.append(np.array(heads))
        fields = new
    return np.array(fields)


def vector_cross(x0, weights, biases):
    """Deep & Cross, one row: x_{l+1} = x_0 x_l^T w_l + b_l + x_l, the outer product in full."""
    x = np.array(x0)
    for w, b in zip(weights, biases, strict=True):
        outer = np.array([[a * c for c in x] for a in x0])
        x = (
            np.array([sum(outer[i][j] * w[j] for j in range(len(x))) for i in range(len(x))])
            + b
            + x
        )
    return x


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def matrix_cross(x0, layers):
    """DCN V2 and GDCN, one row through layers of {weight, bias, gate?}."""
    x = list(x0)
    for layer in layers:
        new = []
        for i, weights in enumerate(layer["weight"]):
            y = sum(w * value for w, value in zip(weights, x, strict=True)) + layer["bias"][i]
            if "gate" in layer:
                y *= sigmoid(sum(w * v for w, v in zip(layer["gate"][i], x, strict=True)))
            new.append(x0[i] * y + x[i])
        x = new
    return np.array(x)


def masked_cross(x0, layers, exponential):
    """DCNv3, one row through layers of {weight, bias, norm: (scale, shift)}."""
    x = list(x0)
    for layer in layers:
        h = [sum(w * v for w, v in zip(row, x, strict=True)) for row in layer["weight"]]
        masked = h[: len(x) // 2]
        normed = layer_norm(masked, *layer["norm"])
        c = h + [value * max(n, 0.0) for value, n in zip(masked, normed, strict=True)]
        anchor = x if exponential else x0
        x = [anchor[i] * (c[i] + layer["bias"][i]) + x[i] for i in range(len(x))]
    return np.array(x)


def field_weighted_pairs(fields, strengths):
    """FwFM, one row: sum over pairs of r_ij <v_i, v_j>, pairs in the order of combinations."""
    pairs = itertools.combinations(range(len(fields)), 2)
    return sum(
        r * sum(a * b for a, b in zip(fields[i], fields[j], strict=True))
        for r, (i, j) in zip(strengths, pairs, strict=True)
    )


def mixture(shares, experts):
    """sum_e shares[e] * experts[e], one row, by loops."""
    found = np.zeros(len(experts[0]))
    for share, expert in zip(shares, experts, strict=True):
        for unit, value in enumerate(expert):
            found[unit] += share * value
    return found


def gate(x, weight, bias):
    """Shares of experts for one row: softmax(W x + b)."""
    return softmax(
        [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
    )


def extraction_level(tasks, shared, own_experts, shared_experts, gates, shared_gate=None):
    """One row through a level of PLE.

    Args:
        tasks, shared: Inputs of each task and of the shared part.
        own_experts: Per task a list of functions of its input.
        shared_experts: Functions of the shared input.
        gates, shared_gate: Functions of the input that give the shares; None: the last level.
    """
    of_all = [expert(shared) for expert in shared_experts]
    found = []
    every = []
    for x, experts, shares in zip(tasks, own_experts, gates, strict=True):
        own = [expert(x) for expert in experts]
        every += own
        found.append(mixture(shares(x), own + of_all))
    if shared_gate is None:
        return found, shared
    return found, mixture(shared_gate(shared), every + of_all)


def probability_of_both(a, b):
    """sigma(a) sigma(b), and what is missing to 1, of logits of any size.

    By logarithms: ln p = -ln(1 + e^-a) - ln(1 + e^-b), and 1 - p = sigma(-a) + sigma(a) sigma(-b).
    """
    log1p_exp = functools.partial(np.logaddexp, 0.0)  # ln(1 + e^x)
    positive = -log1p_exp(-a) - log1p_exp(-b)
    negative = np.logaddexp(-log1p_exp(a), -log1p_exp(-a) - log1p_exp(b))
    return positive, negative
