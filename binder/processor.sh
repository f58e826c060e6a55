# Sourced while an image is built and when it starts, often on another machine: where a processor has AVX2, code is
# compiled for any that has, and so what the image brings fits.
if grep -q -w avx2 /proc/cpuinfo 2>/dev/null; then export NUMBA_CPU_NAME=haswell; fi
