# -- tools ---------------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

# Fail the current step; the last line of its output is reported to the root as the reason.
fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

skip() {
  printf '%s\n' "$*"
  exit "$SKIPPED"
}

now_ms() { date +%s%3N; }

# Print the text as a JSON string, without bytes that are not UTF-8.
json_string() {
  local code clean=(iconv -c -f UTF-8 -t UTF-8) escapes=(-e 's/\\/\\\\/g' -e 's/"/\\"/g') json
  have iconv || clean=(tr -cd '\001-\177')
  for code in 01 02 03 04 05 06 07 08 09 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f; do
    escapes+=(-e "s/\\x$code/\\\\u00$code/g")
  done
  # The last character protects line ends before it from being stripped.
  json=$(
    printf '%s.' "$1" | "${clean[@]}" 2>/dev/null | LC_ALL=C sed "${escapes[@]}" |
      LC_ALL=C awk 'NR > 1 { printf "\\n" } { printf "%s", $0 }'
  )
  printf '"%s"' "${json%.}"
}

# Print the text as one word of any shell, on one line. Trailing line ends may be lost.
shell_word() {
  local word apostrophe="'\\''"
  if [ "${1//$'\n'/}" = "$1" ]; then
    printf "'%s'" "${1//\'/"$apostrophe"}"
  else
    word=${1//\\/\\\\}
    word=${word//%/%%}
    word=${word//$'\n'/\\n}
    printf '"%s(printf %s)"' '$' "'${word//\'/"$apostrophe"}'"
  fi
}

url_part() {
  local LC_ALL=C text=$1 each at
  for ((at = 0; at < ${#text}; at++)); do
    each=${text:at:1}
    case $each in
      [A-Za-z0-9._~-]) printf '%s' "$each" ;;
      *) printf '%%%02X' "'$each" ;;
    esac
  done
}

sha256_of() { sha256sum -- "$1" | cut -d ' ' -f 1; }

# Replace a file atomically. Arguments: text, path, mode.
write_file() {
  local draft="$2.new.$$"
  mkdir -p -- "$(dirname -- "$2")"
  (umask 077 && printf '%s' "$1" >"$draft")
  chmod "$3" -- "$draft"
  mv -f -- "$draft" "$2"
}

# Install one of our programs from stdin.
write_program() {
  write_file "$(cat)
" "$1" 755
}

# -- requests to the root ------------------------------------------------------------------------

# Print the best available token: our own, otherwise the join token.
write_auth() {
  local token
  token=$(own_token)
  token=${token:-$(join_token)}
  token=$(printf '%s' "${token:-${VERS_AUTH_TOKEN:-}}" | tr -d '\r\n')
  write_file "Authorization: Bearer $token
" "$WORK/auth" 600
}

is_same_vm() {
  local known
  known=$(cat -- "$WORK/vm_id" 2>/dev/null && printf .) && [ "${known%.}" = "$VM_ID" ]
}

join_token() {
  if [ -n "$JOIN_TOKEN" ]; then
    printf '%s' "$JOIN_TOKEN"
  elif is_same_vm; then
    cat -- "$WORK/asked-token" 2>/dev/null || true
  fi
}

# Print the token that this VM received when it joined, not one from the VM it was copied from.
own_token() {
  if ! is_same_vm || ! [ -f "$REEF_HOME/identity.json" ]; then return 0; fi
  sed -n 's/.*"VERS_AUTH_TOKEN": *"\([A-Za-z0-9._~+\/=-]*\)".*/\1/p' "$REEF_HOME/identity.json"
}

# Arguments: method, path, file with the body or nothing, file for the response. Prints the status,
# 000 without a response. The token is never on a command line, where everybody could read it.
http() {
  if have curl; then
    local body=()
    [ -z "$3" ] || body=(--data-binary "@$3")
    curl -sS --globoff --proto '=http,https' --connect-timeout 15 --max-time 300 \
      -o "$4" -w '%{http_code}' -X "$1" -H "@$WORK/auth" -H 'Content-Type: application/json' \
      "${body[@]}" --url "$ROOF_URL$2" 2>>"$WORK/http.err" || true
  elif have python3; then
    python3 - "$1" "$ROOF_URL$2" "$3" "$4" "$WORK/auth" 2>>"$WORK/http.err" <<'PYTHON' || printf 000
import sys, urllib.error, urllib.request
method, url, body, answer, auth = sys.argv[1:]
if not url.startswith(("http://", "https://")):
    raise SystemExit("not a URL of http")
name, _, value = open(auth).read().strip().partition(": ")
data = open(body, "rb").read() if body else None
headers = {name: value, "Content-Type": "application/json"}
asked = urllib.request.Request(url, data, headers, method=method)
try:
    with urllib.request.urlopen(asked, timeout=300) as got, open(answer, "wb") as file:
        while True:
            chunk = got.read(1 << 16)
            if not chunk:
                break
            file.write(chunk)
    print(got.status, end="")
except urllib.error.HTTPError as error:
    open(answer, "wb").write(error.read())
    print(error.code, end="")
PYTHON
  else
    printf 000
  fi
}

# Like http, but retry for a while without a response, or if the root has an error.
ask() {
  local status=000 pause
  for pause in 1 2 4 8 15 0; do
    status=$(http "$@")
    case $status in 000 | 429 | 5??) sleep "$pause" ;; *) break ;; esac
  done
  printf '%s' "$status"
}

# Print the root's response, as the reason of a failure.
said() {
  if [ -s "$1" ]; then head -c 500 -- "$1"; else tail -n 1 -- "$WORK/http.err" 2>/dev/null || true; fi
}

# Download a file from the root and verify it. Arguments: name, SHA-256, target.
fetch_dist() {
  local part="$3.part" status
  [ -n "$2" ] || fail "this script was made without the files of the roof"
  if [ -f "$3" ] && [ "$(sha256_of "$3")" = "$2" ]; then return; fi
  mkdir -p -- "$(dirname -- "$3")"
  status=$(ask GET "/bootloader/dist/$1" "" "$part")
  [ "$status" = 200 ] || fail "the roof did not hand out $1 (HTTP $status): $(said "$part")"
  [ "$(sha256_of "$part")" = "$2" ] ||
    fail "$1 has another SHA-256 than this script says: the roof has a newer one, or it was changed on its way"
  mv -f -- "$part" "$3"
}

# -- reports -------------------------------------------------------------------------------------

# Arguments: step, status, milliseconds, exit status, file with output. Undelivered reports are sent
# with the next one; a failure stops nothing.
report() {
  local output=""
  [ -z "$5" ] || output=$(tail -c 8000 -- "$5" | LC_ALL=C tr -d '\000')
  REPORTS=$((REPORTS + 1))
  printf '{"run":%s,"step":"%s","status":"%s","durationMs":%s,"exitStatus":%s,"output":%s}\n' \
    "$(json_string "$RUN")" "$1" "$2" "$3" "$4" "$(json_string "$output")" \
    >"$WORK/reports/$(printf '%04d' "$REPORTS").json"
  send_reports
}

send_reports() {
  local each status
  for each in "$WORK"/reports/*.json; do
    [ -f "$each" ] || continue
    status=$(http POST /bootloader/report "$each" "$WORK/answer")
    case $status in
      2??) rm -f -- "$each" ;;
      # The root rejects this report for good, or the token is not valid for it.
      400 | 404 | 413) rm -f -- "$each" ;;
      *) return 0 ;;
    esac
  done
}
