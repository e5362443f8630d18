# bpf_skeleton(<name> <file.bpf.c>...)
#
# Compiles each program, links the objects into one and embeds it as
# <name>.skel.h (target <name>_skel). Depfiles make every header change
# rebuild the objects.
find_program(BPF_CLANG NAMES clang-14 clang REQUIRED)
find_program(BPFTOOL NAMES bpftool PATHS /usr/sbin /sbin REQUIRED)

function(bpf_skeleton name)
  set(objects)
  foreach(source ${ARGN})
    get_filename_component(stem ${source} NAME_WLE)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${stem}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${BPF_CLANG} -target bpf -mcpu=v3 -std=gnu11 -O2 -g
              -Wall -Wextra -Werror
              -I${CMAKE_SOURCE_DIR} -I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}
              -MMD -MF ${object}.d -MT ${object}
              -c ${CMAKE_CURRENT_SOURCE_DIR}/${source} -o ${object}
      DEPENDS ${source}
      DEPFILE ${object}.d
      COMMENT "Building BPF object ${stem}.o"
      VERBATIM)
    list(APPEND objects ${object})
  endforeach()
  set(linked ${CMAKE_CURRENT_BINARY_DIR}/${name}.linked.o)
  set(header ${CMAKE_CURRENT_BINARY_DIR}/${name}.skel.h)
  add_custom_command(
    OUTPUT ${header}
    COMMAND ${BPFTOOL} gen object ${linked} ${objects}
    COMMAND ${BPFTOOL} gen skeleton ${linked} name ${name}_bpf > ${header}
    DEPENDS ${objects}
    COMMENT "Embedding ${name}.skel.h"
    VERBATIM)
  add_custom_target(${name}_skel_header DEPENDS ${header})
  add_library(${name}_skel INTERFACE)
  add_dependencies(${name}_skel ${name}_skel_header)
  target_include_directories(${name}_skel SYSTEM INTERFACE ${CMAKE_CURRENT_BINARY_DIR})
endfunction()
