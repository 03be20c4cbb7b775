#!/usr/bin/env bash
# A one-node Ceph with its S3 gateway on 127.0.0.1:$PORT for keys AK/SK, in the empty folder $1. Debian packages
# radosgw ceph-mon ceph-osd ceph-mgr ceph-common uuid-runtime curl. Ends its processes when standard input ends.
set -euo pipefail
root=$1 PORT=${PORT:-7480} fsid=$(uuidgen)
mkdir -p "$root"/{mon,mgr,osd,run,log}
export CEPH_CONF=$root/ceph.conf
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon initial members = a
mon host = [v2:127.0.0.1:13300,v1:127.0.0.1:16789]
public addr = 127.0.0.1
auth allow insecure global id reclaim = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail crit = 1
mon data avail warn = 1
run dir = $root/run
log file = $root/log/\$name.log
admin socket = $root/run/\$name.asok
keyring = $root/keyring
pid file = $root/run/\$name.pid
[mon.a]
mon data = $root/mon
[mgr.x]
mgr data = $root/mgr
mgr initial modules =
[osd.0]
osd data = $root/osd
osd objectstore = memstore
memstore device bytes = 4294967296
[client.rgw.main]
rgw frontends = beast endpoint=127.0.0.1:$PORT
CONF
key() { ceph-authtool "$root/keyring" --gen-key "$@" >/dev/null; }
until_true() { for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return; sleep .3; done; echo "ceph: $* never came true" >&2; exit 1; }
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait' EXIT
start() { "$@" -f >"$root/log/${1##*/}.out" 2>&1 & pids+=($!); }
ceph-authtool --create-keyring "$root/keyring" >/dev/null
key -n mon. --cap mon 'allow *'
key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
key -n mgr.x --cap mon 'allow profile mgr' --cap osd 'allow *'
key -n client.rgw.main --cap mon 'allow rw' --cap osd 'allow rwx'
key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' --cap mgr 'allow profile osd'
monmaptool --create --addv a '[v2:127.0.0.1:13300,v1:127.0.0.1:16789]' --fsid "$fsid" "$root/monmap" >/dev/null
ceph-mon -i a --mkfs --monmap "$root/monmap" --keyring "$root/keyring"
start ceph-mon -i a
start ceph-mgr -i x
until_true ceph -s
ceph auth add osd.0 mon 'allow profile osd' osd 'allow *' mgr 'allow profile osd' -i "$root/keyring" >/dev/null 2>&1 || true
disk=$(uuidgen)
ceph osd new "$disk" 0 >/dev/null
ceph-osd -i 0 --mkfs --osd-uuid "$disk" >"$root/log/mkfs.out" 2>&1
start ceph-osd -i 0
osd_is_up() { ceph osd stat | grep -q '1 up'; }
until_true osd_is_up
start radosgw -n client.rgw.main
until_true curl -s -o /dev/null "http://127.0.0.1:$PORT/"
radosgw-admin user create --uid=t --display-name=t --access-key=AK --secret=SK >/dev/null 2>&1
echo ready
cat >/dev/null
