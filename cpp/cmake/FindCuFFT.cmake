# Finds cuFFT and offers it as CuFFT::CuFFT. Look elsewhere with CuFFT_ROOT: a CUDA toolkit, or the folder of the wheel
# nvidia-cufft (site-packages/nvidia/cufft or site-packages/nvidia/cu13).
#
# NAMES_PER_DIR: CuFFT_ROOT goes before every other place, though it have only libcufft.so.12 and they libcufft.so. The
# header is the one that stands beside the library: another version's may name other functions.
find_library(
    CuFFT_LIBRARY
    NAMES cufft libcufft.so.12 libcufft.so.11
    NAMES_PER_DIR
    HINTS "${CUDAToolkit_LIBRARY_DIR}"
    PATH_SUFFIXES lib lib64 lib/x64 targets/x86_64-linux/lib
)
if(CuFFT_LIBRARY AND NOT CuFFT_INCLUDE_DIR)
    get_filename_component(cufft_folder "${CuFFT_LIBRARY}" DIRECTORY)
    find_path(
        CuFFT_INCLUDE_DIR
        cufft.h
        PATHS "${cufft_folder}/../include" "${cufft_folder}/../../include"
        NO_DEFAULT_PATH
    )
endif()
find_path(CuFFT_INCLUDE_DIR cufft.h HINTS ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
mark_as_advanced(CuFFT_INCLUDE_DIR CuFFT_LIBRARY)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
    CuFFT
    REQUIRED_VARS CuFFT_LIBRARY CuFFT_INCLUDE_DIR
    REASON_FAILURE_MESSAGE "install cuFFT with the CUDA toolkit, or the wheel nvidia-cufft, and set CuFFT_ROOT to its folder"
)
if(CuFFT_FOUND AND NOT TARGET CuFFT::CuFFT)
    add_library(CuFFT::CuFFT UNKNOWN IMPORTED)
    set_target_properties(
        CuFFT::CuFFT
        PROPERTIES IMPORTED_LOCATION "${CuFFT_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${CuFFT_INCLUDE_DIR}"
    )
endif()
