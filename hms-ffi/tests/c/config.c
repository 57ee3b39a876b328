/* Configuration and metrics. */
#include "check.h"

int main(void)
{
    hms_system_t *hms = NULL;
    char *json = NULL;

    CHECK_OK(hms_system_open(NULL, &hms));
    CHECK_OK(hms_config_get(hms, NULL, &json));
    CHECK(json[0] == '[' && strstr(json, "\"monitoring.interval\"") != NULL && strstr(json, "\"healing.") != NULL);
    hms_string_free(json);
    CHECK_OK(hms_config_set(hms, "monitoring.interval", "17s"));
    CHECK_OK(hms_config_get(hms, "monitoring.interval", &json));
    CHECK(strstr(json, "\"17s\"") != NULL && strstr(json, "config.toml:") != NULL && strstr(json, "healing.") == NULL);
    hms_string_free(json);
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_config_set(hms, "monitoring.interval", "soon"));
    CHECK_OK(hms_config_set(hms, "monitoring.interval", NULL));
    CHECK_OK(hms_config_get(hms, "monitoring.interval", &json));
    CHECK(strstr(json, "17s") == NULL && strstr(json, "\"origin\":\"default\"") != NULL);
    hms_string_free(json);
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_config_get(hms, "no.such.key", &json));
    CHECK(json == NULL);
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_config_set(hms, "no.such.key", "1"));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_config_get(NULL, NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_config_get(hms, NULL, NULL));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_config_set(NULL, "monitoring.interval", "1s"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_config_set(hms, NULL, "1s"));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_config_set(hms, "monitoring.interval", "\xff"));

    CHECK_OK(hms_metric_query(hms, NULL, &json));
    CHECK(strstr(json, "\"series\":[") != NULL);
    hms_string_free(json);
    CHECK_STATUS(HMS_ERR_NOT_FOUND, hms_metric_query(hms, "{\"agent\":\"nobody\"}", &json));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_metric_query(hms, "{\"since\":\"soon\"}", &json));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_metric_query(hms, "nonsense", &json));
    CHECK_STATUS(HMS_ERR_INVALID_HANDLE, hms_metric_query(NULL, NULL, &json));
    CHECK_STATUS(HMS_ERR_INVALID_ARGUMENT, hms_metric_query(hms, NULL, NULL));
    CHECK_OK(hms_system_close(&hms, false));
    puts("ok");
    return 0;
}
