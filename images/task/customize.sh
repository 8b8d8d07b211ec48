#!/bin/sh
# Called by the image builder with the root of the unpacked image; no package script has run there.
set -eu
root="$1"
cd "$root"

cat >etc/passwd <<'END'
root:x:0:0:root:/root:/bin/bash
agent:x:65530:65530:agent:/testbed:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
printf 'root:x:0:\nagent:x:65530:\nnogroup:x:65534:\n' >etc/group
: >etc/resolv.conf
rm -f etc/hostname

# What the alternatives system would have made.
ln -sf mawk usr/bin/awk
ln -sf python3 usr/bin/python

mkdir -p testbed
chown 65530:65530 testbed
chmod 755 testbed

rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/lintian \
    usr/lib/python3.11/lib2to3 usr/lib/python3.11/pydoc_data usr/lib/python3.11/distutils \
    usr/lib/x86_64-linux-gnu/gconv var/lib/apt var/lib/dpkg var/cache var/log

# Byte code is made once, here: an unprivileged sandbox could not keep it, and would compile every
# imported module again in every process. -s/-p: no path of the build host gets into it.
chroot . /usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash usr/lib/python3.11
