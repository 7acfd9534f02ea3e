from pathlib import Path

from infra.settings import Settings


def test_a_child_process_reads_the_very_settings_of_its_parent(monkeypatch, tmp_path):
    settings = Settings(
        kafka={"bootstrap": "127.0.0.1:9092", "options": {"security.protocol": "SSL"}},
        redis={"url": "redis://127.0.0.1:6379/3", "prefix": "other"},
        stream={"epoch_s": 0.5, "clock": "stream"},
        home=tmp_path,
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("HEADRACE_KAFKA__BOOTSTRAP", "10.0.0.5:9092")
    monkeypatch.setenv("HEADRACE_KAFKA__OPTIONS", '{"sasl.username": "ann"}')
    monkeypatch.setenv("HEADRACE_HOME", "/var/lib/headrace")
    settings = Settings()
    assert settings.kafka.log_config().common()["sasl.username"] == "ann"
    assert settings.kafka.log_config().common()["bootstrap.servers"] == "10.0.0.5:9092"
    assert settings.home == Path("/var/lib/headrace")
