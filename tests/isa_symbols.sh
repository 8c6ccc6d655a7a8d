#!/bin/sh
# isa_symbols.sh NM OBJECT RECORD NAMESPACE: an object built with ISA flags may define, for the linker to see, its record
# of kernels and what belongs to its own renamed namespace, nothing else. A shared inline function would be merged with
# the baseline's copy, and the program could then run AVX2 instructions on a CPU without them.
set -eu
if [ $# -ne 4 ]; then
  echo "usage: isa_symbols.sh NM OBJECT RECORD NAMESPACE" >&2
  exit 2
fi
nm=$1 object=$2 record=$3 namespace=$4

# Upper-case letters are global, u, v and w are weak or unique.
symbols=$("$nm" -C --defined-only "$object" | grep -E '^[0-9a-f]* [A-Zuvw] ' || true)
if ! echo "$symbols" | grep -q " $record\$"; then
  echo "$object: the record $record is not defined; found: $symbols" >&2
  exit 1
fi
# DW.ref.__gxx_personality_v0 is data: the address of the exception handler that every unit names.
foreign=$(echo "$symbols" | grep -v -e " $record\$" -e "$namespace::" -e ' DW\.ref\.__gxx_personality_v0$' || true)
if [ -n "$foreign" ]; then
  echo "$object defines symbols that the linker may share with units built without its ISA flags:" >&2
  echo "$foreign" >&2
  exit 1
fi
echo "$object: only $record and the namespace $namespace"
