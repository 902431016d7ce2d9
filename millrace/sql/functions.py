"""The functions that scripts may call, by the names that the databases know them under.

None of them reads a file, a setting, a catalog or another session, changes anything, waits, or makes rows. What is not
named here is refused, whoever made it.
"""

from millrace.sql.dialects import POSTGRESQL, SQLITE, TIMED

_BOTH = """
    abs acos asin atan atan2 avg ceil ceiling coalesce concat concat_ws cos count cume_dist date degrees
    dense_rank exp first_value floor lag last_value lead length ln log log10 lower ltrim max min mod nth_value
    ntile nullif octet_length percent_rank pi power radians random rank replace round row_number rtrim sign sin
    sqrt substr substring sum tan trim trunc upper
"""
_POSTGRESQL = """
    age all any array array_agg array_append array_cat array_length array_lower array_position array_prepend
    array_remove array_replace array_to_json array_to_string array_upper ascii bit_and bit_length bit_or
    bool_and bool_or btrim cardinality cast cbrt char_length character_length chr clock_timestamp corr covar_pop
    covar_samp date_bin date_part date_trunc decode div encode every extract gcd gen_random_uuid greatest
    grouping initcap isfinite json_agg json_array_length json_build_array json_build_object json_extract_path
    json_extract_path_text json_object_agg json_strip_nulls json_typeof jsonb_agg jsonb_array_length
    jsonb_build_array jsonb_build_object jsonb_extract_path jsonb_extract_path_text jsonb_insert
    jsonb_object_agg jsonb_set jsonb_strip_nulls jsonb_typeof justify_days justify_hours justify_interval lcm
    least left lpad make_date make_interval make_time make_timestamp make_timestamptz md5 mode now num_nonnulls
    num_nulls overlay percentile_cont percentile_disc phraseto_tsquery plainto_tsquery position quote_ident
    quote_literal regexp_count regexp_instr regexp_like regexp_replace regexp_substr regr_count regr_intercept
    regr_r2 regr_slope repeat reverse right row_to_json rpad scale sha256 sha512 similarity split_part
    starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array strpos timezone
    to_char to_date to_hex to_json to_jsonb to_number to_timestamp to_tsquery to_tsvector transaction_timestamp
    translate trim_scale ts_headline ts_rank ts_rank_cd var_pop var_samp variance websearch_to_tsquery
    width_bucket
"""
_SQLITE = """
    cast char datetime format glob group_concat hex ifnull iif instr json json_array json_array_length
    json_extract json_group_array json_group_object json_insert json_object json_quote json_remove
    json_replace json_set json_type json_valid julianday like likely nullif printf quote strftime string_agg
    time timediff total typeof unicode unixepoch unlikely
"""

NAMES = {
    POSTGRESQL: frozenset((_BOTH + _POSTGRESQL).split()),
    SQLITE: frozenset((_BOTH + _SQLITE).split()) | frozenset(TIMED.values()),
}

_KEYWORDS = """
    all and any array as between by case conflict cube do distinct else end except exists filter from group having in
    intersect is join lateral like ilike escape limit not offset on or over order partition recursive returning rollup
    select set sets similar then to union using values when where with within materialized interval
    char character varchar decimal numeric time timestamp timestamptz bit
"""
WORDS_BEFORE_PARENTHESES = frozenset(_KEYWORDS.split())
"""What else may stand before a parenthesis: keywords, and types with a length."""

_HARMLESS = """
    avg coalesce count dense_rank lower max min nullif rank row_number sum upper
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Those that cannot fail on a row's values before the rows are chosen: aggregates come after, the rest never do."""
