"""An NVIDIA GPU that is not there, as nvidia-ml-py tells of one."""

from types import SimpleNamespace


class FakeGpu(SimpleNamespace):
    """NVML of a machine whose memory in use and energy go up with each question."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    used, energy, sessions, count, mig = 1000, 5000, 0, 1, 0

    def nvmlInit(self):  # noqa: N802
        self.sessions += 1

    def nvmlShutdown(self):  # noqa: N802
        self.sessions -= 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return "ab"[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return uuid[-1]

    def nvmlDeviceGetUUID(self, gpu):  # noqa: N802
        return f"GPU-{gpu}"

    def nvmlDeviceGetMigMode(self, gpu):  # noqa: N802
        return [self.mig, self.mig]

    def nvmlDeviceGetEccMode(self, gpu):  # noqa: N802
        return [1, 1]

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        if self.used is None:
            raise OSError("Not Supported")
        self.used = min(self.used + 500, 3000)
        return SimpleNamespace(used=self.used, total=8 * 2**30)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):  # noqa: N802
        if self.energy is None:
            raise OSError("Not Supported")
        self.energy += 2500
        return self.energy

    def nvmlDeviceGetPowerUsage(self, gpu):  # noqa: N802
        return 70_000

    def nvmlDeviceGetName(self, gpu):  # noqa: N802
        return "Card"

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return "1.2"

    def nvmlSystemGetCudaDriverVersion(self):  # noqa: N802
        return 13010

    def nvmlDeviceGetMaxClockInfo(self, gpu, which):  # noqa: N802
        return 1000 * which

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu):  # noqa: N802
        raise OSError("Not Supported")
