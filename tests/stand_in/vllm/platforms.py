class Platform:
    def is_cpu(self) -> bool:
        return True

    def get_device_name(self) -> str:
        return "cpu"


current_platform = Platform()
