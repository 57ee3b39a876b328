/* The layouts that were published. A change here breaks programs that are already built: structures grow at
 * their end only. */
#include "hms.h"
#include "hms.h"

#ifdef __cplusplus
#define ASSERT(condition) static_assert(condition, #condition)
#else
#define ASSERT(condition) _Static_assert(condition, #condition)
#endif

ASSERT(sizeof(hms_status_t) == 4);
ASSERT(offsetof(hms_system_options_t, struct_size) == 0);
ASSERT(offsetof(hms_system_options_t, mode) == 8);
ASSERT(offsetof(hms_system_options_t, home) == 16);
ASSERT(offsetof(hms_system_options_t, host_program) == 24);
ASSERT(sizeof(hms_system_options_t) == 32);
ASSERT(offsetof(hms_subscription_options_t, struct_size) == 0);
ASSERT(offsetof(hms_subscription_options_t, patterns) == 8);
ASSERT(offsetof(hms_subscription_options_t, pattern_count) == 16);
ASSERT(offsetof(hms_subscription_options_t, filter) == 24);
ASSERT(offsetof(hms_subscription_options_t, capacity) == 32);
ASSERT(offsetof(hms_subscription_options_t, after_sequence) == 40);
ASSERT(offsetof(hms_subscription_options_t, queue_policy) == 48);
ASSERT(offsetof(hms_subscription_options_t, block_ms) == 52);
ASSERT(offsetof(hms_subscription_options_t, on_events) == 56);
ASSERT(offsetof(hms_subscription_options_t, on_event) == 64);
ASSERT(offsetof(hms_subscription_options_t, user_data) == 72);
ASSERT(offsetof(hms_subscription_options_t, drop) == 80);
ASSERT(sizeof(hms_subscription_options_t) == 88);
ASSERT(offsetof(hms_event_t, struct_size) == 0);
ASSERT(offsetof(hms_event_t, type) == 8);
ASSERT(offsetof(hms_event_t, subject) == 16);
ASSERT(offsetof(hms_event_t, source) == 24);
ASSERT(offsetof(hms_event_t, id) == 32);
ASSERT(offsetof(hms_event_t, time_ms) == 40);
ASSERT(offsetof(hms_event_t, sequence) == 48);
ASSERT(offsetof(hms_event_t, content_type) == 56);
ASSERT(offsetof(hms_event_t, data) == 64);
ASSERT(offsetof(hms_event_t, data_length) == 72);
ASSERT(sizeof(hms_event_t) == 80);
ASSERT(offsetof(hms_cli_options_t, struct_size) == 0);
ASSERT(offsetof(hms_cli_options_t, program_name) == 8);
ASSERT(offsetof(hms_cli_options_t, program_version) == 16);
ASSERT(offsetof(hms_cli_options_t, host_program) == 24);
ASSERT(offsetof(hms_cli_options_t, stdio) == 32);
ASSERT(sizeof(hms_cli_options_t) == 48);
ASSERT(offsetof(hms_command_options_t, args_json) == 8);
ASSERT(offsetof(hms_command_options_t, on_item) == 16);
ASSERT(offsetof(hms_command_options_t, on_progress) == 24);
ASSERT(offsetof(hms_command_options_t, on_done) == 32);
ASSERT(offsetof(hms_command_options_t, user_data) == 40);
ASSERT(offsetof(hms_command_options_t, drop) == 48);
ASSERT(sizeof(hms_command_options_t) == 56);
ASSERT(offsetof(hms_command_call_t, path) == 8);
ASSERT(offsetof(hms_command_call_t, args_json) == 16);
ASSERT(offsetof(hms_command_call_t, source) == 24);
ASSERT(offsetof(hms_command_call_t, cwd) == 32);
ASSERT(sizeof(hms_command_call_t) == 40);
ASSERT(offsetof(hms_service_call_t, service) == 8);
ASSERT(offsetof(hms_service_call_t, method) == 16);
ASSERT(offsetof(hms_service_call_t, args_json) == 24);
ASSERT(sizeof(hms_service_call_t) == 32);
ASSERT(offsetof(hms_agent_info_t, id) == 8);
ASSERT(offsetof(hms_agent_info_t, name) == 16);
ASSERT(offsetof(hms_agent_info_t, config_json) == 24);
ASSERT(offsetof(hms_agent_info_t, incarnation) == 32);
ASSERT(offsetof(hms_agent_info_t, life) == 40);
ASSERT(sizeof(hms_agent_info_t) == 48);
ASSERT(offsetof(hms_message_t, source) == 8);
ASSERT(offsetof(hms_message_t, message_json) == 16);
ASSERT(sizeof(hms_message_t) == 24);
ASSERT(offsetof(hms_agent_vtable_t, create) == 8);
ASSERT(offsetof(hms_agent_vtable_t, start) == 16);
ASSERT(offsetof(hms_agent_vtable_t, handle) == 24);
ASSERT(offsetof(hms_agent_vtable_t, health) == 32);
ASSERT(offsetof(hms_agent_vtable_t, snapshot) == 40);
ASSERT(offsetof(hms_agent_vtable_t, restore) == 48);
ASSERT(offsetof(hms_agent_vtable_t, stop) == 56);
ASSERT(offsetof(hms_agent_vtable_t, destroy) == 64);
ASSERT(sizeof(hms_agent_vtable_t) == 72);
