#!/bin/sh
# Makes the Python environment of the exporter in target/export-env (4.4 GB, about a minute).
# Does nothing when it is there, and neither this file nor requirements.txt has changed.
#   setup.sh        install what requirements.txt locks
#   setup.sh lock   make requirements.txt anew from requirements.in
set -eu
here=$(cd "$(dirname "$0")" && pwd)
env=$(cd "$here/../.." && pwd)/target/export-env
stamp=$env/.requirements.sha256

fresh_venv() {
    # PYTHON chooses the interpreter; the lock is for Python 3.11 or newer.
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --clear --python "${PYTHON:-python3}" "$env"
    else
        "${PYTHON:-python3}" -m venv --clear "$env"
        "$env/bin/python" -m pip install --quiet uv
    fi
}
uv_of_env() { if [ -x "$env/bin/uv" ]; then "$env/bin/uv" "$@"; else uv "$@"; fi; }

if [ "${1:-}" = lock ]; then
    [ -x "$env/bin/python" ] || fresh_venv
    cd "$here"
    uv_of_env pip compile --quiet --upgrade --no-header --no-annotate --python "$env/bin/python" \
        --override overrides.txt requirements.in -o requirements.txt
    exit 0
fi

wanted=$(cat "$here/requirements.txt" "$here/setup.sh" | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
echo "making $env"
fresh_venv
# --no-deps: the lock is complete, and leaves out what torch wants but nothing here loads.
uv_of_env pip install --quiet --no-deps --python "$env/bin/python" -r "$here/requirements.txt"
# onnxruntime and its genai tell Microsoft what they run, unless this is set before they are imported.
for site in "$env"/lib/python*/site-packages; do
    echo 'import os; os.environ["ORT_DISABLE_TELEMETRY"] = "1"' > "$site/no_telemetry.pth"
done
echo "$wanted" > "$stamp"
